"""Boxes as tensors: regression losses, and how much of each cell of a grid a box covers.

Legend of shape suffixes: `N` boxes, `C` cells; `4` is either (x1, y1, x2, y2) or (centre x, centre y, width, height),
as the function says. Any unit will do, as long as it is one.
"""

from __future__ import annotations

import torch
from torch import Tensor


def corners(centred_N4: Tensor) -> Tensor:
    """(..., 4) x1, y1, x2, y2 of boxes given as centre x, centre y, width, height.

    >>> corners(torch.tensor([0.5, 0.5, 1.0, 0.5]))
    tensor([0.0000, 0.2500, 1.0000, 0.7500])
    """
    centre, half = centred_N4[..., :2], centred_N4[..., 2:] / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def shared_area(one_N4: Tensor, other_N4: Tensor) -> Tensor:
    """(...) area that boxes (corners) have in common, by broadcasting; 0 where they are apart."""
    low = torch.maximum(one_N4[..., :2], other_N4[..., :2])
    high = torch.minimum(one_N4[..., 2:], other_N4[..., 2:])
    return (high - low).clamp(min=0).prod(dim=-1)


def area(box_N4: Tensor) -> Tensor:
    """(...) area of boxes (corners)."""
    return (box_N4[..., 2:] - box_N4[..., :2]).clamp(min=0).prod(dim=-1)


def iou(one_N4: Tensor, other_N4: Tensor) -> Tensor:
    """(...) intersection over union of boxes (corners), by broadcasting; 0 where both are empty."""
    shared = shared_area(one_N4, other_N4)
    union = area(one_N4) + area(other_N4) - shared
    return shared / union.where(union > 0, 1)


def giou(one_N4: Tensor, other_N4: Tensor) -> Tensor:
    """(...) generalised IoU of boxes (corners), in [-1, 1], by broadcasting.

    IoU minus the share of the smallest box around both that neither covers, so that boxes which lie apart are still
    drawn together (Rezatofighi et al. 2019, arXiv 1902.09630).

    >>> giou(torch.tensor([0.0, 0, 1, 1]), torch.tensor([1.0, 0, 2, 1])), giou(torch.ones(4), torch.ones(4))
    (tensor(0.), tensor(0.))
    """
    shared = shared_area(one_N4, other_N4)
    union = area(one_N4) + area(other_N4) - shared
    low = torch.minimum(one_N4[..., :2], other_N4[..., :2])
    high = torch.maximum(one_N4[..., 2:], other_N4[..., 2:])
    around = (high - low).clamp(min=0).prod(dim=-1)
    # Two empty boxes in one place: nothing is shared and nothing is wrong.
    return shared / union.where(union > 0, 1) - (around - union) / around.where(around > 0, 1)


def coverage(box_N4: Tensor, cell_C4: Tensor) -> Tensor:
    """(N, C) share of each cell that each box (corners both) covers, between 0 and 1."""
    shared_NC = shared_area(box_N4[:, None], cell_C4[None])
    size_C = area(cell_C4)
    return shared_NC / size_C.where(size_C > 0, 1)
