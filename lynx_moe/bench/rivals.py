"""What one block of new experts is measured against: a dense FFN, transformers' experts, a plain loop.

T tokens, D width, E experts, K experts per token, F expert width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import MixtralConfig
from transformers.models.mixtral.modeling_mixtral import MixtralExperts

from lynx_moe.adapter.branch import Branch
from lynx_moe.ops.mixes import MIXES
from lynx_moe.ops.routing import router_logits

TRANSFORMERS = ("eager", "batched_mm", "grouped_mm")


class DenseFFN(nn.Module):
    """A gated FFN with SiLU as in Llama, as wide as a token's experts together: the same FLOPs per token."""

    def __init__(self, width: int, hidden: int, dtype: torch.dtype, device: torch.device):
        super().__init__()
        like = {"bias": False, "dtype": dtype, "device": device}
        self.gate, self.up = nn.Linear(width, hidden, **like), nn.Linear(width, hidden, **like)
        self.down = nn.Linear(hidden, width, **like)

    def forward(self, x_TD: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x_TD)) * self.up(x_TD))


def transformers_experts(branch: Branch, implementation: str) -> MixtralExperts:
    """Mixtral's experts (whose layout is ours) with the branch's own weights, computed by `implementation`."""
    num_experts, width, hidden = branch.down_EDF.shape
    config = MixtralConfig(hidden_size=width, intermediate_size=hidden, num_local_experts=num_experts)
    config._experts_implementation = implementation
    with torch.device("meta"):
        experts = MixtralExperts(config)
    experts.gate_up_proj, experts.down_proj = branch.gate_up_EFD, branch.down_EDF
    return experts


def plain_loop(branch: Branch) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The textbook: for each expert, find its tokens, compute them, add them to the output."""

    def experts(x_TD: Tensor, experts_TK: Tensor, weights_TK: Tensor) -> Tensor:
        n_TD = torch.zeros_like(x_TD)
        for expert in range(len(branch.down_EDF)):
            token_r, k_r = torch.where(experts_TK == expert)
            gate_rF, up_rF = F.linear(x_TD[token_r], branch.gate_up_EFD[expert]).chunk(2, dim=-1)
            y_rD = F.linear(F.silu(gate_rF) * up_rF, branch.down_EDF[expert])
            n_TD.index_add_(0, token_r, (y_rD * weights_TK[token_r, k_r, None]).to(n_TD.dtype))
        return n_TD

    return experts


def in_the_block(branch: Branch, experts: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Callable:
    """The branch's forward with other experts: its router, its weights, its mix."""
    mix = MIXES.get(branch.mix)

    def forward(x_TD: Tensor, f_TD: Tensor) -> Tensor:
        weights_TK, experts_TK = mix.route(router_logits(x_TD, branch.router_ED), branch.top_k)
        return mix.combine(f_TD, experts(x_TD, experts_TK, weights_TK).to(f_TD.dtype), None)

    return forward
