"""Box losses against closed forms, and against sums over pixels and finite differences."""

import pytest
import torch

from lynx_moe.ops.boxes import area, corners, coverage, giou, iou


def random_boxes(count: int, seed: int = 0) -> torch.Tensor:
    """(count, 4) corners on a grid of 16 x 16 whole numbers, none empty."""
    draw = torch.Generator().manual_seed(seed)
    low = torch.randint(0, 10, (count, 2), generator=draw)
    return torch.cat([low, low + torch.randint(1, 7, (count, 2), generator=draw)], dim=1).double()


def painted(box: torch.Tensor) -> torch.Tensor:
    """(16, 16) bool, the pixels of a box of whole numbers."""
    x1, y1, x2, y2 = (int(v) for v in box)
    pixels = torch.zeros(16, 16, dtype=torch.bool)
    pixels[y1:y2, x1:x2] = True
    return pixels


def test_giou_and_iou_are_what_counting_pixels_gives():
    for a, b in zip(random_boxes(60), random_boxes(60, seed=1), strict=True):
        one, other = painted(a), painted(b)
        union, shared = (one | other).sum(), (one & other).sum()
        ys, xs = (one | other).nonzero(as_tuple=True)
        around = (ys.max() - ys.min() + 1) * (xs.max() - xs.min() + 1)
        assert iou(a, b).item() == pytest.approx((shared / union).item())
        assert giou(a, b).item() == pytest.approx((shared / union - (around - union) / around).item())


def test_giou_is_one_for_a_box_with_itself_and_goes_to_minus_one_far_away():
    box = torch.tensor([0.2, 0.3, 0.5, 0.9], dtype=torch.double)
    assert giou(box, box).item() == pytest.approx(1.0)
    assert giou(box, box + 1e4).item() == pytest.approx(-1.0, abs=1e-6)
    other = torch.tensor([0.1, 0.1, 0.4, 0.6], dtype=torch.double)
    assert giou(box, other) == giou(other, box)


def test_giou_pulls_boxes_together_that_do_not_touch():
    apart = torch.tensor([[0.0, 0.0, 0.1, 0.1]], requires_grad=True)
    giou(apart, torch.tensor([[0.8, 0.8, 0.9, 0.9]])).sum().backward()
    # The far corner grows towards the other box; the near one does not run away from it.
    assert (apart.grad[0, 2:] > 0).all()


def test_gradient_of_giou_is_that_of_finite_differences():
    one = random_boxes(8) + 0.25
    other = random_boxes(8, seed=1)
    assert torch.autograd.gradcheck(giou, (one.requires_grad_(), other), eps=1e-7, atol=1e-5)


def test_empty_boxes_give_numbers_and_gradients_that_are_finite():
    empty = torch.zeros(2, 4, requires_grad=True)
    value = giou(empty, torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.2, 0.2, 0.4, 0.4]]))
    value.sum().backward()
    assert value.isfinite().all() and empty.grad.isfinite().all()


def test_corners_of_centre_and_size():
    centred = torch.tensor([[0.5, 0.25, 0.2, 0.5]])
    torch.testing.assert_close(corners(centred), torch.tensor([[0.4, 0.0, 0.6, 0.5]]))


def test_coverage_over_all_cells_adds_up_to_the_box():
    side = torch.arange(4) / 4
    y, x = torch.meshgrid(side, side, indexing="ij")
    cells = torch.stack([x, y, x + 0.25, y + 0.25], dim=-1).view(-1, 4)
    boxes = torch.tensor([[0.1, 0.2, 0.35, 0.9], [0.26, 0.3, 0.28, 0.31]])
    share = coverage(boxes, cells)
    torch.testing.assert_close(share.sum(1) / 16, area(boxes))
    assert (share[1] > 0).sum() == 1 and share.max() <= 1  # smaller than a cell: that one cell
