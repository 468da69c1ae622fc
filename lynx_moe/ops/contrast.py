"""Telling pairs apart: InfoNCE in both directions or in one, and hard negatives drawn by it.

Legend of shape suffixes: `N` pairs, the i-th of one kind belonging to the i-th of the other; `M` of the other kind,
where these are more; `D` width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def info_nce(logits_NN: Tensor, barred_NN: Tensor | None = None) -> Tensor:
    """(N,) nats of each pair: half of telling its second among all second ones, half of telling its first.

    Source: van den Oord et al. 2018 (arXiv 1807.03748), in both directions as in CLIP and X-VLM. A pair alone costs 0.

    Args:
        logits_NN: similarity, divided by the temperature, of each first (rows) with each second (columns).
        barred_NN: bool, what is not to be told apart, because it may be right as well; the diagonal is ignored.

    >>> info_nce(torch.zeros(4, 4))        # four that look alike: ln 4
    tensor([1.3863, 1.3863, 1.3863, 1.3863])
    """
    if barred_NN is not None:
        itself_NN = torch.eye(len(logits_NN), dtype=torch.bool, device=logits_NN.device)
        logits_NN = logits_NN.masked_fill(barred_NN & ~itself_NN, float("-inf"))
    right_N = torch.arange(len(logits_NN), device=logits_NN.device)
    return (
        F.cross_entropy(logits_NN, right_N, reduction="none") + F.cross_entropy(logits_NN.T, right_N, reduction="none")
    ) / 2


def info_nce_to(logits_NM: Tensor, right_N: Tensor, barred_NM: Tensor) -> Tensor:
    """(N,) nats of each first: telling its second among all second ones that are not barred; one direction alone.

    Source: as `info_nce`; the direction from query to target is VLM2Vec's, as in the code of arXiv 2411.05195.

    Args:
        logits_NM: similarity, divided by the temperature, of each first with each second.
        right_N: which second each belongs to; never barred.
        barred_NM: bool, what may be right as well.

    >>> info_nce_to(torch.zeros(1, 4), torch.tensor([2]), torch.tensor([[True, False, False, False]]))     # ln 3
    tensor([1.0986])
    """
    own_NM = torch.zeros_like(barred_NM).scatter(1, right_N[:, None], True)
    return F.cross_entropy(logits_NM.masked_fill(barred_NM & ~own_NM, float("-inf")), right_N, reduction="none")


@torch.no_grad()
def hard_negatives(logits_NN: Tensor, barred_NN: Tensor) -> tuple[Tensor, Tensor]:
    """(M,) rows that have a negative at all, and (M,) one column for each, drawn by the row's softmax over them.

    The likelier a wrong one is taken for right, the more often it is drawn. Source: X-VLM's code (zengyan-97/X-VLM).

    Args:
        barred_NN: bool, what is no negative of a row; the diagonal never is.
    """
    barred_NN = barred_NN | torch.eye(len(logits_NN), dtype=torch.bool, device=logits_NN.device)
    rows_M = (~barred_NN).any(dim=1).nonzero().squeeze(1)
    if not len(rows_M):
        return rows_M, rows_M
    weights = logits_NN[rows_M].float().masked_fill(barred_NN[rows_M], float("-inf")).softmax(dim=1)
    return rows_M, torch.multinomial(weights, 1).squeeze(1)
