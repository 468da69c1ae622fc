"""gRefCOCO's F1 against its published loop, written anew with torch as there."""

import numpy as np
import pytest
import torch

from lynx_moe.evaluation.metrics.generalised_comprehension import f1_of_boxes
from lynx_moe.evaluation.metrics.overlap import generalised_overlaps, overlaps
from tests.evaluation.metrics.test_overlap import drawn


def published(table, num_prediction, num_gt, thresh=0.5):
    """mdetr/datasets/refexp.py of henghuiding/gRefCOCO, without its bookkeeping."""
    if num_gt == 0:
        return 0.0 if num_prediction >= 1 else 1.0
    table, tp = torch.tensor(table).clone(), 0
    for _ in range(min(num_prediction, num_gt)):
        value, index = torch.topk(table.flatten(0, 1), 1)
        if value < thresh:
            break
        tp += 1
        table[(index // num_gt)[0], :] = 0.0
        table[:, (index % num_gt)[0]] = 0.0
    return 2 * tp / (2 * tp + (num_prediction - tp) + (num_gt - tp))


@pytest.mark.parametrize("measure", [overlaps, generalised_overlaps])
def test_f1_is_the_published_one(measure):
    rng = np.random.default_rng(2)
    seen = set()
    for _ in range(300):
        true = drawn(rng.integers(1, 5))
        found = np.concatenate([true + rng.integers(-2, 3, true.shape), drawn(rng.integers(0, 3))])[
            rng.integers(0, 2) :
        ]
        found[:, 2:] = np.maximum(found[:, 2:], found[:, :2] + 1)
        table = measure(found, true)
        assert f1_of_boxes(table, len(found), len(true)) == pytest.approx(published(table, len(found), len(true)))
        seen.add(round(f1_of_boxes(table, len(found), len(true)), 2))
    assert {0.0, 1.0} <= seen and len(seen) > 5


def test_nothing_there_is_right_only_when_nothing_is_told():
    empty = np.zeros((0, 0))
    assert f1_of_boxes(empty, 0, 0) == 1.0 == published(empty, 0, 0)
    assert f1_of_boxes(np.zeros((2, 0)), 2, 0) == 0.0 and f1_of_boxes(np.zeros((0, 3)), 0, 3) == 0.0


def test_boxes_that_cannot_be_read_cost_precision():
    assert f1_of_boxes(np.array([[1.0]]), 2, 1) == pytest.approx(2 / 3)


def test_overlap_of_exactly_half_is_a_hit():
    assert f1_of_boxes(np.array([[0.5]]), 1, 1) == 1.0 and f1_of_boxes(np.array([[0.4999]]), 1, 1) == 0.0
