"""A loss that travels with a tensor.

Losses collected on the side (a list, a hook) are silently lost under reentrant activation checkpointing: the first
forward runs without gradients, and the recomputed loss comes after the total was formed. A loss attached here is
differentiated wherever its tensor is, in every mode.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class HasScale(Protocol):
    aux_scale: float


class _Attach(torch.autograd.Function):
    @staticmethod
    def forward(ctx, y: Tensor, loss: Tensor, scale: HasScale) -> Tensor:
        ctx.scale, ctx.shape, ctx.dtype, ctx.device = scale, loss.shape, loss.dtype, loss.device
        return y.view_as(y)

    @staticmethod
    def backward(ctx, grad_y: Tensor):
        # Read now, not in forward: a gradient scaler may have moved in between.
        grad_loss = torch.full(ctx.shape, float(ctx.scale.aux_scale), dtype=ctx.dtype, device=ctx.device)
        return grad_y, grad_loss, None


def attach(y: Tensor, loss: Tensor, scale: HasScale) -> Tensor:
    """`y`, unchanged; when somebody differentiates through it, `scale.aux_scale * loss` is differentiated as well.

    The same gradients as adding `aux_scale * loss` to the total loss, provided the total depends on `y`.

    Args:
        loss: a scalar.
        scale: an object whose `aux_scale` is read at backward time; 1.0 unless the total loss is scaled.
    """
    return _Attach.apply(y, loss, scale)
