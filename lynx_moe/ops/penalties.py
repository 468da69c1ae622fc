"""Sparsity penalties: what an open gate costs. One small function each; a new one needs only the decorator.

Every penalty takes how open the gates are, `(T, G)` in (0, 1), and a weight per token (0: does not count), and returns
a scalar that is smaller when gates are shut. With no counting token it is 0 and keeps its graph.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lynx_moe.registry import Registry

Penalty = Callable[[Tensor, Tensor], Tensor]
PENALTIES: Registry[Penalty] = Registry("sparsity penalty")


@PENALTIES.register("l1")
def l1(open_TG: Tensor, weight_T: Tensor) -> Tensor:
    """Mean over tokens of the summed gates: how far, on average, the block moves from the base.

    >>> l1(torch.tensor([[0.5, 0.25]]), torch.ones(1)).item()
    0.75
    """
    return (open_TG.sum(dim=-1) * weight_T).sum() / weight_T.sum().clamp_min(1.0)


@PENALTIES.register("entropy")
def entropy(open_TG: Tensor, weight_T: Tensor) -> Tensor:
    """Mean over tokens of the gates' summed binary entropy, in nats: pushes gates to 0 or 1, to the nearer end.

    >>> round(entropy(torch.tensor([[0.5]]), torch.ones(1)).item(), 4)
    0.6931
    """
    p = open_TG.clamp(1e-6, 1 - 1e-6)  # the slope of p*log(p) is infinite at 0
    h_TG = -(p * p.log() + (1 - p) * (1 - p).log())
    return (h_TG.sum(dim=-1) * weight_T).sum() / weight_T.sum().clamp_min(1.0)


@PENALTIES.register("hoyer")
def hoyer(open_TG: Tensor, weight_T: Tensor) -> Tensor:
    """Hoyer-square (Yang et al. 2020, DeepHoyer) over all gates of a batch, divided by their number: in [1/n, 1].

    Indifferent to the gates' overall size: asks for few open gates, not for weak ones.

    >>> hoyer(torch.tensor([[1.0, 0.0]]), torch.ones(1)).item()
    0.5
    """
    counted_TG = open_TG * weight_T[:, None]
    number = (weight_T.sum() * open_TG.shape[-1]).clamp_min(1.0)
    return counted_TG.sum().square() / (number * counted_TG.square().sum()).clamp_min(torch.finfo(torch.float32).tiny)


@PENALTIES.register("l0")
def l0(open_TG: Tensor, weight_T: Tensor) -> Tensor:
    """Mean over tokens of the gates' summed hard-concrete L0 (Louizos et al. 2018, equation 12): how many are open.

    The chance that a hard-concrete gate of the same logit is not exactly 0, `sigmoid(logit - beta * log(-gamma /
    zeta))` with the paper's beta 2/3, gamma -0.1, zeta 1.1. Only the penalty is the paper's: our gates are neither
    sampled nor stretched (our choice: hosts have plain sigmoids), so one that it shuts is near 0, not at it. Against
    `l1` it charges little more for a wide open gate than for a half open one, and its pull on a shut gate is stronger.

    >>> round(l0(torch.tensor([[0.5]]), torch.ones(1)).item(), 4)
    0.8318
    """
    # sigmoid(logit(p) + log c) = c p / (1 - p + c p): no logarithm, so finite slopes at both ends.
    c = 11.0 ** (2 / 3)
    chance_TG = c * open_TG / (1 - open_TG + c * open_TG)
    return (chance_TG.sum(dim=-1) * weight_T).sum() / weight_T.sum().clamp_min(1.0)
