"""Overlaps against counted pixels, and against the formula of MDETR's box_ops."""

import numpy as np
import pytest

from lynx_moe.evaluation.metrics.overlap import generalised_overlaps, overlaps
from lynx_moe.grounding import iou

RNG = np.random.default_rng(3)


def drawn(n, side=20):
    low = RNG.integers(0, side - 2, (n, 2))
    return np.concatenate([low, low + RNG.integers(1, side - low, (n, 2))], axis=1).astype(float)


def pixels(box, last=0):
    x1, y1, x2, y2 = map(int, box)
    return {(x, y) for x in range(x1, x2 + last) for y in range(y1, y2 + last)}


@pytest.mark.parametrize("inclusive", [False, True])
def test_overlap_is_the_share_of_counted_pixels(inclusive):
    found, true = drawn(12), drawn(9)
    table = overlaps(found, true, inclusive)
    for row, a in zip(table, found, strict=True):
        for value, b in zip(row, true, strict=True):
            mine, other = pixels(a, int(inclusive)), pixels(b, int(inclusive))
            assert value == pytest.approx(len(mine & other) / len(mine | other))


def test_overlap_agrees_with_the_librarys_own_of_two_boxes():
    found, true = drawn(8) / 3, drawn(8) / 7
    assert overlaps(found, true) == pytest.approx(np.array([[iou(a, b) for b in true] for a in found]))


def test_generalised_overlap_is_mdetrs():
    found, true = drawn(10), drawn(10)
    for row, a in zip(generalised_overlaps(found, true), found, strict=True):
        for value, b in zip(row, true, strict=True):
            union = len(pixels(a) | pixels(b))
            hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
            assert value == pytest.approx(iou(a, b) - (hull - union) / hull)


def test_no_boxes_have_a_table_without_rows_and_empty_boxes_no_overlap():
    assert overlaps([], drawn(3)).shape == (0, 3) and generalised_overlaps(drawn(2), []).shape == (2, 0)
    assert overlaps([(1, 1, 1, 1)], [(1, 1, 1, 1)]) == 0.0 == generalised_overlaps([(1, 1, 1, 1)], [(1, 1, 1, 1)])
