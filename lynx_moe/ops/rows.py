"""Tokens to rows sorted by expert, and back: gathers only, in forward and in backward.

Autograd's own backward of a gather is a scatter that adds: on a CPU it runs on one thread and row by row, on a GPU in
an order that changes. Each token has exactly K rows, so the same sum is a gather again, in a fixed order.

T tokens, D width, E experts, K experts per token, P rows (T*K, more where they are padded).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


@dataclass(frozen=True)
class Rows:
    """Which row holds which token, expert after expert.

    Attributes:
        token_P: the token of each row; `None` when every expert reads all tokens as they are.
        place_TK: the row of each token's k-th expert.
        reads: per expert, the rows (or, without `token_P`, the tokens) that its matmuls read, as (start, end); `None`
            where nobody needs them on the host.
        writes: per expert, the rows that its matmuls write, as (start, end).
        ends_E: where each expert's rows end, int32, on the device; `None` where nobody needs it.
        padding: (start, end) of rows that belong to no token and hold zeros.
    """

    token_P: Tensor | None
    place_TK: Tensor
    reads: tuple[tuple[int, int], ...] | None
    writes: tuple[tuple[int, int], ...] | None
    ends_E: Tensor | None = None
    padding: tuple[tuple[int, int], ...] = ()


def shared_rows(experts_TK: Tensor) -> Rows:
    """Every token goes to all E = K experts: nothing is sorted or copied, expert e writes rows e*T to e*T+T."""
    tokens, experts = experts_TK.shape
    place_TK = experts_TK * tokens + torch.arange(tokens, device=experts_TK.device)[:, None]
    writes = tuple((e * tokens, (e + 1) * tokens) for e in range(experts))
    return Rows(None, place_TK, ((0, tokens),) * experts, writes)


def sorted_rows(experts_TK: Tensor, num_experts: int, *, padded: bool = False, on_host: bool = True) -> Rows:
    """Rows sorted by expert, those of one expert in token order.

    Args:
        padded: round each expert's number of rows up to one of few sizes (`padded_size`).
        on_host: give `reads` and `writes`, for which a GPU is waited for; else `ends_E`.
    """
    tokens, top_k = experts_TK.shape
    expert_R = experts_TK.reshape(-1)
    # Stable: results do not depend on how a sort breaks ties.
    order_R = expert_R.argsort(stable=True)
    place_R = torch.empty_like(order_R).scatter_(0, order_R, torch.arange(len(order_R), device=order_R.device))
    # Not bincount: its output's length depends on the data, which breaks compiled graphs and waits for the device.
    counts_E = torch.zeros(num_experts, dtype=torch.int64, device=expert_R.device)
    counts_E.scatter_add_(0, expert_R, torch.ones_like(expert_R))
    if not on_host:
        ends_E = counts_E.cumsum(0).to(torch.int32)
        return Rows(order_R // top_k, place_R.view(tokens, top_k), None, None, ends_E)
    spans, padding, moved, start, used = [], [], [], 0, 0
    for count in counts_E.tolist():
        end = start + (padded_size(count) if padded else count)
        spans.append((start, end))
        if start + count < end:
            padding.append((start + count, end))
        moved.append(start - used)
        start, used = end, used + count
    token_P = order_R // top_k
    if padding:
        place_R = place_R + torch.tensor(moved, device=place_R.device)[expert_R]
        token_R = torch.arange(len(place_R), device=place_R.device) // top_k
        token_P = token_R.new_zeros(start).scatter_(0, place_R, token_R)
    return Rows(token_P, place_R.view(tokens, top_k), tuple(spans), tuple(spans), padding=tuple(padding))


def padded_size(rows: int) -> int:
    """The next of few sizes: powers of two up to 16, then 16 per octave and never finer than 16.

    On average 3 of 100 rows are padding where there are hundreds; up to 4096 rows there are 69 sizes.

    >>> [padded_size(n) for n in (0, 1, 3, 16, 17, 500, 513, 1025)]
    [0, 1, 4, 16, 32, 512, 544, 1088]
    """
    if rows <= 16:
        return rows if rows <= 2 else 1 << (rows - 1).bit_length()
    step = max(16, 1 << (rows - 1).bit_length() - 5)
    return -(-rows // step) * step


def to_rows(x_TD: Tensor, rows: Rows) -> Tensor:
    """`(P, D)`: each row's token; x itself when all experts read all tokens."""
    return x_TD if rows.token_P is None else _ToRows.apply(x_TD, rows)


def from_rows(y_PD: Tensor, weights_TK: Tensor, rows: Rows) -> Tensor:
    """`(T, D)`: each token's weighted sum over its K rows, in the order of k, in y's dtype.

    The weights are rounded to y's dtype, the products added in float32.
    """
    return _FromRows.apply(y_PD, weights_TK, rows)


class _ToRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x_TD: Tensor, rows: Rows) -> Tensor:
        ctx.rows = rows
        return _gather(x_TD, rows)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_PD: Tensor):
        return F.embedding_bag(ctx.rows.place_TK, grad_PD.contiguous(), mode="sum"), None


class _FromRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, y_PD: Tensor, weights_TK: Tensor, rows: Rows) -> Tensor:
        ctx.rows = rows
        ctx.save_for_backward(y_PD, weights_TK)
        return F.embedding_bag(rows.place_TK, y_PD, mode="sum", per_sample_weights=weights_TK.to(y_PD.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_TD: Tensor):
        y_PD, weights_TK = ctx.saved_tensors
        rows = ctx.rows
        place_R = rows.place_TK.reshape(-1)
        grad_PD = _gather(grad_TD, rows) if rows.token_P is not None else grad_TD.repeat(rows.place_TK.shape[1], 1)
        weight_P = weights_TK.new_zeros(len(y_PD)).scatter_(0, place_R, weights_TK.reshape(-1))
        grad_weights_TK = _row_dots(grad_PD, y_PD)[rows.place_TK].to(weights_TK.dtype)
        return grad_PD.mul_(weight_P[:, None].to(grad_PD.dtype)), grad_weights_TK, None


def _gather(x_TD: Tensor, rows: Rows) -> Tensor:
    x_PD = x_TD.index_select(0, rows.token_P)
    for start, end in rows.padding:
        x_PD[start:end].zero_()
    return x_PD


def _row_dots(a_PD: Tensor, b_PD: Tensor) -> Tensor:
    """Row by row, the sum of products, at least in float32."""
    if a_PD.dtype in (torch.float32, torch.float64):
        return torch.linalg.vecdot(a_PD, b_PD)
    # 256 rows at a time: the float32 copies then stay in a core's cache.
    pieces = zip(a_PD.split(256), b_PD.split(256), strict=True) if a_PD.device.type == "cpu" else ((a_PD, b_PD),)
    return torch.cat([torch.linalg.vecdot(a.float(), b.float()) for a, b in pieces])
