"""Who goes where: from router logits to the experts of each token and their weights.

T tokens, D width, E experts, K experts per token.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def router_logits(x_TD: Tensor, router_ED: Tensor) -> Tensor:
    """Scores `(T, E)` in float32, whatever the inputs are.

    Float32 because two near-equal scores decide which expert runs: in bfloat16 they would tie, and the choice would
    depend on the order in which a kernel happens to add.
    """
    return F.linear(x_TD.float(), router_ED.float())


def sigmoid_top_k(logits_TE: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """The k largest independent sigmoids: weights `(T, K)` in (0, 1), not renormalised, and expert ids `(T, K)`.

    Each weight is a gate of its own: all may be near 0. This is glm4_moe's router with one group, no correction bias
    and `norm_topk_prob=False`.

    >>> import torch
    >>> weights, experts = sigmoid_top_k(torch.tensor([[0.0, 9.0, -9.0]]), 2)
    >>> experts.tolist(), weights[0, 1].item()
    ([[1, 0]], 0.5)
    """
    # Select by logit, not by sigmoid: large logits saturate to equal sigmoids in float32, and would tie.
    top_TK, experts_TK = logits_TE.topk(top_k, dim=-1)
    return top_TK.sigmoid(), experts_TK


def softmax_top_k(logits_TE: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """Softmax over the k largest logits only: weights `(T, K)` that sum to 1, and expert ids `(T, K)`.

    The same as softmax over all experts, top-k, divided by the sum (qwen2_moe with `norm_topk_prob=True`).

    >>> import torch
    >>> weights, experts = softmax_top_k(torch.tensor([[1.0, 1.0, -9.0]]), 2)
    >>> weights.tolist()
    [[0.5, 0.5]]
    """
    top_TK, experts_TK = logits_TE.topk(top_k, dim=-1)
    return top_TK.softmax(dim=-1), experts_TK


def load_balance(logits_TE: Tensor, experts_TK: Tensor, weight_T: Tensor) -> Tensor:
    """Switch Transformer's balance loss (Fedus et al. 2021, equation 4) of one block: 1 when even, up to E when not.

    `E * sum_e share_e * probability_e`, with the share of assignments each expert got and its mean softmax
    probability, over the tokens whose weight is not 0.

    Args:
        weight_T: 0 or 1 per token; tokens with 0 (padding, gated-off rows) do not count.
    """
    num_experts = logits_TE.shape[-1]
    count = weight_T.sum().clamp_min(1.0)
    chosen_TE = F.one_hot(experts_TK, num_experts).sum(dim=1).to(logits_TE.dtype) / experts_TK.shape[-1]
    share_E = (chosen_TE * weight_T[:, None]).sum(dim=0) / count
    probability_E = (logits_TE.softmax(dim=-1) * weight_T[:, None]).sum(dim=0) / count
    return num_experts * (share_E * probability_E).sum()


def router_z(logits_TE: Tensor, weight_T: Tensor) -> Tensor:
    """ST-MoE's z-loss (Zoph et al. 2022, equation 5): mean squared log-partition, keeps logits from drifting off."""
    return (logits_TE.logsumexp(dim=-1).square() * weight_T).sum() / weight_T.sum().clamp_min(1.0)
