"""How the new experts' output joins the frozen experts', one entry per kind of gate.

T tokens, D width, K experts per token, G gates per token.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from lynx_moe.ops.routing import sigmoid_top_k, softmax_top_k
from lynx_moe.registry import Registry


@dataclass(frozen=True, kw_only=True)
class Mix:
    """One way to join: how tokens are routed, what the gate is made of, and the sum.

    Attributes:
        route: logits `(T, E)` and k to weights and expert ids, both `(T, K)`.
        gate: "weights" (the routing weights are the gate), "block" (one learned number) or "token" (one per token).
        combine: frozen output, new output (both `(T, D)`) and gate to the mixed output. The gate is `None` for
            "weights", `(1, 1)` for "block", `(T, 1)` for "token".
        openness: weights `(T, K)` and gate to how strongly the new experts speak, `(T, G)` or `(1, 1)`, in (0, 1):
            what the sparsity penalty acts on.
    """

    route: Callable[[Tensor, int], tuple[Tensor, Tensor]]
    gate: str
    combine: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    openness: Callable[[Tensor, Tensor | None], Tensor]


MIXES: Registry[Mix] = Registry("mix")


def additive(f_TD: Tensor, n_TD: Tensor, gate: None = None) -> Tensor:
    """`f + n`: the routing weights are independent gates, and shut gates give f exactly."""
    return f_TD + n_TD


def convex(f_TD: Tensor, n_TD: Tensor, alpha: Tensor) -> Tensor:
    """`alpha * f + (1 - alpha) * n`, one alpha per block (the paper's dual module)."""
    # Joined in float32 (alpha is), because alpha close to 1 would round to 1 in bfloat16 and lose n.
    return (alpha * f_TD + (1 - alpha) * n_TD).to(f_TD.dtype)


def token(f_TD: Tensor, n_TD: Tensor, gate_T1: Tensor) -> Tensor:
    """`f + g(x) * n`, one gate per token."""
    return f_TD + (gate_T1 * n_TD).to(f_TD.dtype)


MIXES.register("additive")(
    Mix(route=sigmoid_top_k, gate="weights", combine=additive, openness=lambda weights_TK, gate: weights_TK)
)
MIXES.register("convex")(
    Mix(route=softmax_top_k, gate="block", combine=convex, openness=lambda weights_TK, alpha: 1 - alpha)
)
MIXES.register("token")(
    Mix(route=softmax_top_k, gate="token", combine=token, openness=lambda weights_TK, gate_T1: gate_T1)
)
