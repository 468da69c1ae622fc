"""Segmentation numbers against the loops of LAVT's test.py and GRES's evaluator, written anew."""

import numpy as np
import pytest
from pycocotools import mask as official

from lynx_moe.evaluation.metrics.coco import mask_of
from lynx_moe.evaluation.metrics.segmentation import (
    LEVELS,
    cumulative_iou,
    general_iou,
    mask_areas,
    precision_at,
)

RNG = np.random.default_rng(7)


def some_masks(n=60):
    true = RNG.random((n, 12, 10)) < RNG.random((n, 1, 1))
    found = true ^ (RNG.random((n, 12, 10)) < RNG.random((n, 1, 1)) ** 3)
    found[:3], true[2] = False, False
    return found, true


def test_numbers_are_those_of_the_published_loop():
    found, true = some_masks()
    total_i = total_u = 0
    ious, right = [], np.zeros(len(LEVELS))
    for pred, target in zip(found, true, strict=True):
        i, u = np.sum(np.logical_and(pred, target)), np.sum(np.logical_or(pred, target))
        this = 0.0 if u == 0 else i * 1.0 / u
        ious.append(this)
        total_i, total_u = total_i + i, total_u + u
        for k, level in enumerate(LEVELS):
            right[k] += this >= level
    shared, union = zip(*(mask_areas(a, b) for a, b in zip(found, true, strict=True)), strict=True)
    assert cumulative_iou(shared, union) == pytest.approx(total_i / total_u)
    assert general_iou(shared, union) == pytest.approx(np.mean(ious))
    assert [precision_at(shared, union, level) for level in LEVELS] == pytest.approx(right / len(found))
    assert 0 < right[-1] < right[0] < len(found)


def test_nothing_to_divide_by_is_none():
    assert cumulative_iou([], []) is general_iou([], []) is precision_at([], [], 0.5) is None
    assert cumulative_iou([0], [0]) is None and general_iou([0], [0]) == 0.0


@pytest.mark.parametrize("seed", range(5))
def test_polygons_are_drawn_as_pycocotools_draws_them(seed):
    rng = np.random.default_rng(seed)
    polygons = [(rng.random(2 * rng.integers(3, 9)) * 70 - 5).tolist() for _ in range(rng.integers(1, 4))]
    drawn = official.decode(official.merge(official.frPyObjects(polygons, 48, 64))).astype(bool)
    assert drawn.any() and (mask_of(polygons, (64, 48)) == drawn).all()


def test_run_lengths_of_both_kinds_are_read_as_pycocotools_reads_them():
    mask = np.asfortranarray(RNG.random((9, 14)) < 0.4)
    packed = official.encode(mask.astype(np.uint8))
    text = {"size": packed["size"], "counts": packed["counts"].decode()}
    flat = mask.flatten(order="F").astype(int)
    ends = np.flatnonzero(np.diff(np.concatenate([[0], flat, [1 - flat[-1]]])))
    plain = {"size": [9, 14], "counts": np.diff(np.concatenate([[0], ends])).tolist()}
    assert (mask_of(text, (14, 9)) == mask).all() and (mask_of(plain, (14, 9)) == mask).all()


@pytest.mark.parametrize(
    "bad",
    [
        [[1, 1, 5, 5]],
        [[1, 1, 5, 5, float("nan"), 2]],
        {"size": [8, 8], "counts": [64]},
        {"size": [10, 10], "counts": [7]},
        {"size": [10, 10], "counts": [-1, 101]},
        {"size": [10, 10], "counts": "~~~~"},
        {"size": [10, 10]},
        {"size": [10, 10], "counts": 7},
    ],
)
def test_outline_of_nothing_is_refused(bad):
    with pytest.raises(ValueError):
        mask_of(bad, (10, 10))


def test_no_polygon_is_an_empty_mask():
    assert mask_of([], (4, 3)).shape == (3, 4) and not mask_of([], (4, 3)).any()
