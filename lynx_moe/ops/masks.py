"""Masks as tensors: what they are learned with, and how far they overlap.

Legend of shape suffixes: `M` masks, `H` rows, `W` columns. Masks of one stack may be of different sizes: `inside_MHW`,
1 or 0, says which cells are a mask's own; what stands in the others does not matter.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def mask_bce(logits_MHW: Tensor, true_MHW: Tensor, inside_MHW: Tensor) -> Tensor:
    """(M,) binary cross-entropy of each mask, the mean over its cells.

    Args:
        logits_MHW: before the sigmoid.
        true_MHW: how much of each cell is the thing, from 0 to 1.
        inside_MHW: at least one cell of each mask.
    """
    nats_MHW = F.binary_cross_entropy_with_logits(logits_MHW, true_MHW, reduction="none")
    return (nats_MHW * inside_MHW).sum((1, 2)) / inside_MHW.sum((1, 2))


def dice_loss(logits_MHW: Tensor, true_MHW: Tensor, inside_MHW: Tensor, eps: float = 1.0) -> Tensor:
    """(M,) 1 - (2 sum(p t) + eps) / (sum(p) + sum(t) + eps) of each mask, with p the sigmoid of its logits.

    With sums of plain values below the line, as Sa2VA's configuration has it ("naive" Dice, eps 1). A mask with nothing
    on it costs 1 - eps / (sum(p) + eps): 0 where nothing is found, too.
    """
    found_MHW = logits_MHW.sigmoid() * inside_MHW
    true_MHW = true_MHW * inside_MHW
    shared_M = (found_MHW * true_MHW).sum((1, 2))
    return 1 - (2 * shared_M + eps) / (found_MHW.sum((1, 2)) + true_MHW.sum((1, 2)) + eps)


def mask_iou(one_MHW: Tensor, other_MHW: Tensor) -> Tensor:
    """(M,) intersection over union of boolean masks; 0 where both are empty, as for boxes.

    >>> mask_iou(torch.tensor([[[True, True]]]), torch.tensor([[[True, False]]]))
    tensor([0.5000])
    """
    shared_M = (one_MHW & other_MHW).sum((1, 2))
    union_M = (one_MHW | other_MHW).sum((1, 2))
    return shared_M / union_M.clamp(min=1)
