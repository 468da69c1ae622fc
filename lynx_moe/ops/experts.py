"""What the new experts compute: gated FFNs with stacked weights, no capacity, no dropped token.

T tokens, D width, E experts, K experts per token, F expert width, R = T*K rows.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

Activation = Callable[[Tensor], Tensor]


def expert_ffn(
    x_TD: Tensor,
    weights_TK: Tensor,
    experts_TK: Tensor,
    gate_up_EFD: Tensor,
    down_EDF: Tensor,
    *,
    activation: Activation = F.silu,
    backend: str = "auto",
) -> Tensor:
    """Each token's weighted sum over its experts of `down(activation(gate(x)) * up(x))`, `(T, D)` in x's dtype.

    A token's result depends on no other token, up to the rounding of matmuls of other heights. Every expert takes part
    in the graph, also one that received no token: its gradient is zero, never missing.

    Args:
        gate_up_EFD: `(E, 2F, D)`, the gate's rows first.
        down_EDF: `(E, D, F)`.
        backend: "eager" loops over experts, "grouped" is one grouped matmul, "auto" takes grouped where it is fast.
    """
    num_experts, top_k = gate_up_EFD.shape[0], experts_TK.shape[-1]
    expert_R = experts_TK.reshape(-1)
    # Stable: rows of one expert stay in token order, so results do not depend on how a sort breaks ties.
    order_R = expert_R.argsort(stable=True)
    x_RD = x_TD[order_R // top_k]
    # Not bincount: its output's length depends on the data, which breaks compiled graphs and waits for the device.
    counts_E = torch.zeros(num_experts, dtype=torch.int64, device=expert_R.device)
    counts_E.scatter_add_(0, expert_R, torch.ones_like(expert_R))

    # Cast here, not in the caller: the stored weights may be float32 masters under a bfloat16 base, and grouped
    # matmul does not know autocast.
    gate_up_EFD, down_EDF = gate_up_EFD.to(x_TD.dtype), down_EDF.to(x_TD.dtype)
    if backend == "grouped" or (backend == "auto" and _grouped_is_fast(x_RD, gate_up_EFD, down_EDF)):
        y_RD = _grouped(x_RD, counts_E, gate_up_EFD, down_EDF, activation)
    else:
        y_RD = _eager(x_RD, counts_E, gate_up_EFD, down_EDF, activation)

    back_R = torch.empty_like(order_R).scatter_(0, order_R, torch.arange(len(order_R), device=order_R.device))
    y_TKD = y_RD[back_R].view(-1, top_k, y_RD.shape[-1])
    # The weighted sum runs in float32 (the weights are) and in the fixed order of k: no atomic adds, so repeatable.
    return (y_TKD * weights_TK[..., None]).sum(dim=1).to(x_TD.dtype)


def _eager(x_RD: Tensor, counts_E: Tensor, gate_up_EFD: Tensor, down_EDF: Tensor, activation: Activation) -> Tensor:
    outputs = []
    # unbind, not indexing: its backward is one stack, where indexing would add E full-size mostly-zero gradients.
    for x_rD, gate_up_FD, down_DF in zip(
        x_RD.split(counts_E.tolist()), gate_up_EFD.unbind(), down_EDF.unbind(), strict=True
    ):
        gate_rF, up_rF = F.linear(x_rD, gate_up_FD).chunk(2, dim=-1)
        outputs.append(F.linear(activation(gate_rF) * up_rF, down_DF))
    return torch.cat(outputs)


def _grouped(x_RD: Tensor, counts_E: Tensor, gate_up_EFD: Tensor, down_EDF: Tensor, activation: Activation) -> Tensor:
    ends_E = counts_E.cumsum(0).to(torch.int32)
    gate_RF, up_RF = F.grouped_mm(x_RD, gate_up_EFD.transpose(1, 2), offs=ends_E).chunk(2, dim=-1)
    return F.grouped_mm(activation(gate_RF) * up_RF, down_EDF.transpose(1, 2), offs=ends_E)


def _grouped_is_fast(x_RD: Tensor, gate_up_EFD: Tensor, down_EDF: Tensor) -> bool:
    """On CUDA from Ampere on, in bfloat16, with rows that are multiples of 16 bytes; elsewhere the loop wins."""
    return (
        x_RD.is_cuda
        and x_RD.dtype == torch.bfloat16
        and hasattr(F, "grouped_mm")
        and torch.cuda.get_device_capability(x_RD.device) >= (8, 0)
        and gate_up_EFD.shape[-1] % 8 == 0
        and down_EDF.shape[-1] % 8 == 0
    )
