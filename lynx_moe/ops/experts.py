"""What the new experts compute: FFNs, gated or plain, with stacked weights, no capacity, no dropped token.

Four paths that compute the same; `choose_path` says which is taken where and why.

T tokens, D width, E experts, K experts per token, F expert width, P rows (one per token and expert, or more).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from lynx_moe.errors import ConfigError
from lynx_moe.ops.rows import Rows, from_rows, shared_rows, sorted_rows, to_rows

Activation = Callable[[Tensor], Tensor]
PATHS = ("shared", "loop", "padded", "grouped")
# Per expert on average. So few rows have few different counts, and compiling a kernel for each is soon over.
FEW_ROWS = 64
# Before 2.11 torch's CPU kernel refuses weights that are not aligned to 16 bytes, which memory-mapped ones need not be.
GROUPED_ON_CPU = hasattr(F, "grouped_mm") and tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 11)


def expert_ffn(
    x_TD: Tensor,
    weights_TK: Tensor,
    experts_TK: Tensor,
    gate_up_EFD: Tensor,
    down_EDF: Tensor,
    *,
    activation: Activation = F.silu,
    path: str = "auto",
) -> Tensor:
    """Each token's weighted sum over its experts of `down(activation(gate(x)) * up(x))`, `(T, D)` in x's dtype.

    Plain experts, told by their shape, have no gate: `down(activation(up(x)))`.

    A token's result depends on no other token, up to the rounding of matmuls of other heights. Every expert takes part
    in the graph, also one that received no token: its gradient is zero, never missing.

    Args:
        experts_TK: ids, no two of a token equal.
        gate_up_EFD: `(E, 2F, D)`, the gate's rows first; `(E, F, D)` for plain experts.
        down_EDF: `(E, D, F)`.
        path: one of `PATHS`, or "auto" for what `choose_path` finds fastest.
    """
    num_experts, top_k = gate_up_EFD.shape[0], experts_TK.shape[-1]
    if path == "auto":
        shape = {"rows": experts_TK.numel(), "num_experts": num_experts, "top_k": top_k}
        path = choose_path(x_TD.device, x_TD.dtype, **shape, widths=(gate_up_EFD.shape[-1], down_EDF.shape[-1]))
        if path == "grouped" and x_TD.dtype != torch.bfloat16 and torch.compiler.is_compiling():
            path = "loop"  # torch.compile knows grouped matmul in bfloat16 only
    if path == "shared":
        rows = shared_rows(experts_TK)
    elif path in PATHS:
        rows = sorted_rows(experts_TK, num_experts, padded=path == "padded", on_host=path != "grouped")
    else:
        raise ConfigError(f"path {path!r}", why="there is none of that name", fix=f"one of auto, {', '.join(PATHS)}")
    linear = _grouped if path == "grouped" else _ExpertLinear.apply
    hidden_PF = linear(to_rows(x_TD, rows), gate_up_EFD, rows, True)
    if is_gated(gate_up_EFD, down_EDF):
        gate_PF, up_PF = hidden_PF.chunk(2, dim=-1)
        hidden_PF = activation(gate_PF) * up_PF
    else:
        hidden_PF = activation(hidden_PF)
    return from_rows(linear(hidden_PF, down_EDF, rows, False), weights_TK, rows)


def is_gated(gate_up_EFD: Tensor, down_EDF: Tensor) -> bool:
    """Whether experts of these shapes are gated: two maps lie in the first, gate and up."""
    return gate_up_EFD.shape[1] != down_EDF.shape[2]


def choose_path(
    device: torch.device, dtype: torch.dtype, *, rows: int, num_experts: int, top_k: int, widths: tuple[int, ...]
) -> str:
    """The fastest of `PATHS` for these experts, as measured on CPUs; for GPUs it is a rule, not a finding.

    - "shared": top_k = num_experts. Every expert reads all tokens, so nothing is sorted or copied.
    - "grouped": one grouped matmul for all experts. On CUDA from Ampere on in bfloat16 with rows that are multiples of
      16 bytes: its kernel needs that, and unlike a loop it does not wait for the device to count the rows. On a CPU in
      float32, and in 16 bits with few rows per expert.
    - "padded": a loop over the experts that have tokens, their row counts rounded up to few sizes. On a CPU in 16 bits,
      where oneDNN compiles a kernel for every new shape and routing makes new shapes at every step.
    - "loop": the same without rounding, anywhere else.

    Args:
        rows: tokens times top_k.
        widths: what the experts' matmuls read, D and F.
    """
    if top_k == num_experts:
        return "shared"
    if device.type == "cpu":
        if dtype.itemsize == 2 and rows > FEW_ROWS * num_experts:
            return "padded"
        return "grouped" if GROUPED_ON_CPU and dtype in (torch.float32, torch.bfloat16, torch.float16) else "loop"
    on_cuda = device.type == "cuda" and dtype == torch.bfloat16 and hasattr(F, "grouped_mm")
    if on_cuda and torch.cuda.get_device_capability(device) >= (8, 0) and all(width % 8 == 0 for width in widths):
        return "grouped"
    return "loop"


def _grouped(x_PI: Tensor, weight_EOI: Tensor, rows: Rows, first: bool) -> Tensor:
    # Grouped matmul knows neither autocast nor float32 masters.
    weight_EOI = weight_EOI.to(x_PI.dtype)
    if weight_EOI.requires_grad:
        # Some kernels leave the gradient of an expert without rows unwritten (pytorch issue 172439, on B200).
        has_rows_E = rows.ends_E.diff(prepend=rows.ends_E.new_zeros(1)) > 0
        weight_EOI = weight_EOI.view_as(weight_EOI)  # the hook must not stay on the parameter itself
        weight_EOI.register_hook(lambda grad_EOI: torch.where(has_rows_E[:, None, None], grad_EOI, 0))
    return F.grouped_mm(x_PI, weight_EOI.transpose(1, 2), offs=rows.ends_E)


class _ExpertLinear(torch.autograd.Function):
    """`(P, O)`: each expert's linear map of its own rows, written in place: no list of outputs is joined.

    Weights are cast to x's dtype (they may be float32 masters) expert by expert, and only where there are rows.
    """

    @staticmethod
    def forward(ctx, x_PI: Tensor, weight_EOI: Tensor, rows: Rows, first: bool) -> Tensor:
        reads = rows.reads if first else rows.writes
        y_PO = x_PI.new_empty(rows.writes[-1][1], weight_EOI.shape[1])
        for weight_OI, (start, end), (to, until) in zip(weight_EOI, reads, rows.writes, strict=True):
            if start < end:
                torch.mm(x_PI[start:end], weight_OI.to(x_PI.dtype).T, out=y_PO[to:until])
        ctx.save_for_backward(x_PI, weight_EOI)
        ctx.spans = tuple(zip(reads, rows.writes, strict=True))
        return y_PO

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_PO: Tensor):
        x_PI, weight_EOI = ctx.saved_tensors
        needs_x, needs_weight = ctx.needs_input_grad[:2]
        grad_PI = torch.empty_like(x_PI) if needs_x else None
        grad_EOI = torch.empty_like(weight_EOI) if needs_weight else None
        written = 0
        for expert, ((start, end), (to, until)) in enumerate(ctx.spans):
            if start == end:
                if needs_weight:
                    grad_EOI[expert].zero_()
                continue
            grad_pO = grad_PO[to:until]
            if needs_x:
                weight_OI = weight_EOI[expert].to(x_PI.dtype)
                if start < written:  # another expert read the same tokens
                    torch.addmm(grad_PI[start:end], grad_pO, weight_OI, out=grad_PI[start:end])
                else:
                    torch.mm(grad_pO, weight_OI, out=grad_PI[start:end])
                written = end
            if needs_weight:
                grad_Op = grad_pO.T
                if grad_pO.device.type == "cpu" and grad_pO.dtype.itemsize == 2:
                    # oneDNN takes twice as long for a transposed left side as for this copy and a straight one.
                    grad_Op = grad_Op.contiguous()
                if grad_EOI.dtype == x_PI.dtype:
                    torch.mm(grad_Op, x_PI[start:end], out=grad_EOI[expert])
                else:
                    grad_EOI[expert] = grad_Op @ x_PI[start:end]
        return grad_PI, grad_EOI, None, None
