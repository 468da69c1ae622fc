"""Rows of all processes side by side, with a gradient to each of them: more negatives than one process has."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


class _Gather(torch.autograd.Function):
    """(W * N, ..) the (N, ..) rows of all W processes; each row's gradient is the sum over all who used it."""

    @staticmethod
    def forward(ctx, rows: Tensor) -> Tensor:
        found = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(found, rows.contiguous())
        return torch.cat(found)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        grad = grad.contiguous()
        dist.all_reduce(grad)
        return grad.chunk(dist.get_world_size())[dist.get_rank()]


def are_several() -> bool:
    """Whether there are other processes, and they are at the same forward: so they are while a gradient is computed.

    Each measures held-out records at its own pace.
    """
    return torch.is_grad_enabled() and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def gathered(rows_ND: Tensor, ids_NK: Tensor) -> tuple[Tensor, Tensor]:
    """Those of all processes, (M, D) and (M, K), in the order of the processes; what is given where one is alone.

    By every process, also one with no rows: others wait for it, here and in backward, so its loss must depend on what
    it gets.

    Args:
        rows_ND: gradients flow back to them. ids_NK: whole numbers said of each.
    """
    if not are_several():
        return rows_ND, ids_NK
    own = torch.tensor([len(rows_ND)], device=rows_ND.device)
    counts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, own)
    most = max(int(count) for count in counts)
    # At least one row, so that there is something to depend on.
    more = max(most, 1) - len(rows_ND)
    rows = _Gather.apply(torch.cat([rows_ND, rows_ND.new_zeros(more, rows_ND.shape[1])]))
    ids = [torch.empty(max(most, 1), ids_NK.shape[1], dtype=ids_NK.dtype, device=ids_NK.device) for _ in counts]
    dist.all_gather(ids, torch.cat([ids_NK, ids_NK.new_zeros(more, ids_NK.shape[1])]))
    kept = torch.cat(
        [torch.arange(len(part), device=own.device) < count for part, count in zip(ids, counts, strict=True)]
    )
    # A product and not an index alone: of no kept rows at all there would be nothing left of the graph.
    return rows[kept] + 0 * rows.sum(), torch.cat(ids)[kept]
