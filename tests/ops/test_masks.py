"""Mask losses against their written-out formulas, and what may not matter to them."""

import math

import pytest
import torch

from lynx_moe.ops.masks import dice_loss, mask_bce, mask_iou

LOGITS = [[2.0, -1.0], [0.5, -3.0]]
TRUE = [[1.0, 0.0], [0.25, 0.0]]
ALL = torch.ones(1, 2, 2)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def cells():
    return [(sigmoid(x), t) for row, own in zip(LOGITS, TRUE, strict=True) for x, t in zip(row, own, strict=True)]


def test_bce_is_the_mean_of_the_cells_nats():
    expected = -sum(t * math.log(p) + (1 - t) * math.log(1 - p) for p, t in cells()) / 4
    assert mask_bce(torch.tensor([LOGITS]), torch.tensor([TRUE]), ALL).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("eps", [1.0, 0.1])
def test_dice_is_twice_the_shared_over_the_sum_of_both(eps):
    shared, both = sum(p * t for p, t in cells()), sum(p + t for p, t in cells())
    found = dice_loss(torch.tensor([LOGITS]), torch.tensor([TRUE]), ALL, eps)
    assert found.item() == pytest.approx(1 - (2 * shared + eps) / (both + eps), rel=1e-6)


def test_dice_is_0_where_a_mask_is_right_and_nears_1_where_it_is_elsewhere():
    true = torch.zeros(1, 40, 40)
    true[:, :20] = 1
    sure = 40 * (2 * true - 1)
    inside = torch.ones_like(true)
    assert dice_loss(sure, true, inside).item() == pytest.approx(0, abs=1e-6)
    assert dice_loss(-sure, true, inside).item() == pytest.approx(1 - 1 / 1601)


def test_an_empty_mask_costs_what_is_found_and_nothing_where_nothing_is():
    nothing, inside = torch.zeros(1, 2, 2), ALL
    assert dice_loss(torch.full((1, 2, 2), -50.0), nothing, inside).item() == pytest.approx(0)
    assert dice_loss(torch.full((1, 2, 2), 50.0), nothing, inside).item() == pytest.approx(1 - 1 / 5)
    logits = torch.zeros(1, 2, 2, requires_grad=True)
    (dice_loss(logits, nothing, inside) + mask_bce(logits, nothing, inside)).sum().backward()
    assert (logits.grad > 0).all()


@pytest.mark.parametrize("loss", [mask_bce, dice_loss])
def test_cells_outside_do_not_matter(loss):
    draw = torch.Generator().manual_seed(0)
    logits, true = torch.randn(2, 3, 5, generator=draw), torch.rand(2, 3, 5, generator=draw)
    inside = torch.zeros(2, 3, 5)
    inside[0], inside[1, :2, :3] = 1, 1
    alone = loss(logits[1:, :2, :3], true[1:, :2, :3], inside[1:, :2, :3])
    torch.testing.assert_close(loss(logits, true, inside)[1:], alone)


def test_iou_counts_cells_and_is_0_between_empty_masks():
    one = torch.tensor([[[1, 1], [0, 0]], [[0, 0], [0, 0]], [[1, 1], [1, 1]]]).bool()
    other = torch.tensor([[[0, 1], [0, 1]], [[0, 0], [0, 0]], [[1, 1], [1, 1]]]).bool()
    assert mask_iou(one, other).tolist() == pytest.approx([1 / 3, 0, 1])
