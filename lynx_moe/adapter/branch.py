"""The new experts of one block for one adapter: router, stacked experts, gate, and what they cost."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lynx_moe.ops.experts import Activation, expert_ffn
from lynx_moe.ops.mixes import MIXES
from lynx_moe.ops.penalties import PENALTIES
from lynx_moe.ops.routing import load_balance, router_logits, router_z


@dataclass(frozen=True)
class BranchOutput:
    """What one pass through a branch gives: the mixed output, and what a recorder or a penalty may want to see."""

    y_TD: Tensor
    logits_TE: Tensor
    weights_TK: Tensor
    experts_TK: Tensor
    open_TG: Tensor


class Branch(nn.Module):
    """`mix(f, sum_k w_k * expert_k(x))` for a frozen output f.

    Args:
        width: the model's width D.
        expert_width: hidden width F of one expert.
        mix: a name in `MIXES`.
        gated: experts `down(activation(gate(x)) * up(x))`, else `down(activation(up(x)))`.
        activation: the frozen FFN's own, so that an exported host can hold both sets of experts.
        sparsity_penalty, gate_sparsity, balance, router_z: what `cost` adds up.
    """

    def __init__(
        self,
        *,
        width: int,
        num_experts: int,
        expert_width: int,
        top_k: int,
        mix: str,
        activation: Activation,
        alpha_init: float,
        sparsity_penalty: str,
        gate_sparsity: float,
        balance: float,
        router_z: float,
        dtype: torch.dtype,
        device: torch.device,
        gated: bool = True,
    ):
        super().__init__()
        self.top_k = top_k
        self.mix = mix
        self.activation = activation
        self.sparsity_penalty = sparsity_penalty
        self.cost_weights = {"sparsity": gate_sparsity, "balance": balance, "router_z": router_z}
        like = {"dtype": dtype, "device": device}
        # Small logits: every gate starts near 0.5 (sigmoid) or 1/k (softmax) and no expert is favoured. 0.1 is our
        # choice: random enough that the top-k spreads tokens over all experts, small enough to be undone soon.
        self.router_ED = nn.Parameter(torch.randn(num_experts, width, **like) * 0.1 * width**-0.5)
        # The base hands over normalised activations, so this gives pre-activations of variance 1.
        rows = (2 if gated else 1) * expert_width
        self.gate_up_EFD = nn.Parameter(torch.randn(num_experts, rows, width, **like) * width**-0.5)
        self.down_EDF = nn.Parameter(torch.zeros(num_experts, width, expert_width, **like))
        if MIXES.get(mix).gate == "block":
            logit = torch.logit(torch.tensor(alpha_init, dtype=torch.float64)).item()
            self.alpha_logit = nn.Parameter(torch.full((1,), logit, **like))
        elif MIXES.get(mix).gate == "token":
            self.token_gate_D = nn.Parameter(torch.zeros(width, **like))
            self.token_gate_bias = nn.Parameter(torch.zeros(1, **like))

    def speak(self, x_TD: Tensor, f_TD: Tensor) -> BranchOutput:
        """The new experts' word on `x_TD`, mixed with the frozen output `f_TD`."""
        return BranchOutput(*self(x_TD, f_TD))

    def forward(self, x_TD: Tensor, f_TD: Tensor) -> tuple[Tensor, ...]:
        """The fields of `BranchOutput` as a plain tuple: sharded training looks for tensors in those only."""
        mix = MIXES.get(self.mix)
        logits_TE = router_logits(x_TD, self.router_ED)
        weights_TK, experts_TK = mix.route(logits_TE, self.top_k)
        # Under autocast x may still be float32 where the frozen FFN already computed in bfloat16: the experts follow
        # the frozen FFN, the router keeps what precision there is.
        n_TD = expert_ffn(
            x_TD.to(f_TD.dtype),
            weights_TK,
            experts_TK,
            self.gate_up_EFD,
            self.down_EDF,
            activation=self.activation,
        )
        gate = self._gate(x_TD)
        return mix.combine(f_TD, n_TD, gate), logits_TE, weights_TK, experts_TK, mix.openness(weights_TK, gate)

    def costs(self, out: BranchOutput, weight_T: Tensor) -> dict[str, Tensor]:
        """The block's penalties, unweighted, over tokens whose weight is 1; only those that are switched on."""
        # One alpha per block is no per-token thing: it counts once, if any token does.
        weight_G = weight_T if len(out.open_TG) == len(weight_T) else weight_T.amax(dim=0, keepdim=True)
        compute = {
            "sparsity": lambda: PENALTIES.get(self.sparsity_penalty)(out.open_TG, weight_G),
            "balance": lambda: load_balance(out.logits_TE, out.experts_TK, weight_T),
            "router_z": lambda: router_z(out.logits_TE, weight_T),
        }
        return {name: compute[name]() for name, weight in self.cost_weights.items() if weight > 0}

    def _gate(self, x_TD: Tensor) -> Tensor | None:
        """Float32: `(1, 1)` alpha of a block, `(T, 1)` token gates, or `None` where the weights are the gate."""
        gate = MIXES.get(self.mix).gate
        if gate == "block":
            return self.alpha_logit.float().sigmoid()[None]
        if gate == "token":
            score_T = x_TD.float() @ self.token_gate_D.float() + self.token_gate_bias.float()
            return score_T.sigmoid()[:, None]
        return None
