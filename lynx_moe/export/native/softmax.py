"""What hosts share whose routed weights are a softmax over the selected experts, so that they always sum to one.

Two kinds of adapter fit exactly:

    convex      alpha f + (1 - alpha) sum_e w_e expert_e: both factors are folded into the down projections;
    additive    with one expert, f + sigmoid(x.r) expert: the softmax over the expert's score and a null expert's score
                of zero is that sigmoid. The null expert, all zeros, is where a token goes that skips the new one.

An additive adapter with more experts weighs each by itself, which no softmax does.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lynx_moe.export.native.host import Experts, filled, pad_width
from lynx_moe.export.read import Adapted, BlockWeights


def mix_refusal(adapted: Adapted, host: str) -> str | None:
    mix, num_experts = adapted.config.mix, adapted.config.num_experts
    if mix == "convex" or (mix == "additive" and num_experts == 1):
        return None
    several = f" of {num_experts} experts" if mix == "additive" else ""
    return f"{host} normalises its routed weights to one, and the mix here is {mix!r}{several}"


def counts(adapted: Adapted) -> tuple[int, int]:
    """Routed experts and how many a token takes, the null expert among them."""
    settings = adapted.config
    return (2, 2) if settings.mix == "additive" else (settings.num_experts, settings.top_k)


def shares(weights: BlockWeights | None) -> tuple[float, float]:
    """What the frozen and the new experts are multiplied with."""
    if weights is None or weights.alpha is None:
        return 1.0, 1.0
    return weights.alpha, 1.0 - weights.alpha


def stacked(
    weights: BlockWeights | None, num_experts: int, width: int, model_width: int, dtype: torch.dtype
) -> Experts:
    """Router and experts of one layer in the host's numbers and widths; null experts are zeros."""
    router = gate_up = down = None
    if weights is not None:
        gate_up, down = pad_width(weights.gate_up_EGD, weights.down_EDH, width)
        # In float32 and rounded once.
        router, down = weights.router_ED, down.float() * shares(weights)[1]
    return Experts(
        filled(router, (num_experts, model_width), dtype),
        filled(gate_up, (num_experts, 2 * width, model_width), dtype),
        filled(down, (num_experts, model_width, width), dtype),
    )


def first(router: Tensor, gate_up: Tensor, down: Tensor, num_experts: int) -> Experts:
    """`stacked` undone, but for the factor."""
    return Experts(router[:num_experts], gate_up[:num_experts], down[:num_experts])
