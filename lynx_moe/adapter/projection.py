"""Low-rank help on the decoder's attention, for bases whose attention does not find the thing that is named.

    y = frozen(x) + where(prompt gate, B A x, 0)

New experts sit behind attention and cannot move it. These deltas can; they stand under the same prompt gate, so a shut
row is the base's bit for bit. Our choice: the paper has none. The delta is LoRA's (Hu et al. 2021, equation 3) with
scale 1 and without dropout.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lynx_moe.adapter.gated import GatedLayer, Turn


class Delta(nn.Module):
    """`B A x` of rank R: `down_RD` starts random, `up_OR` at zero, so a fresh delta changes nothing."""

    def __init__(self, width_in: int, width_out: int, rank: int, *, dtype: torch.dtype, device: torch.device):
        super().__init__()
        like = {"dtype": dtype, "device": device}
        # The base hands over normalised activations, so this gives inner values of variance 1.
        self.down_RD = nn.Parameter(torch.randn(rank, width_in, **like) * width_in**-0.5)
        self.up_OR = nn.Parameter(torch.zeros(width_out, rank, **like))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.linear(x, self.down_RD.to(x.dtype)), self.up_OR.to(x.dtype))


class LynxProjection(GatedLayer):
    """One linear map of the decoder's attention with a low-rank delta per adapter.

    Attributes:
        lynx_delta: adapter name to its `Delta`.
    """

    adapter_layer_names = ("lynx_delta",)

    def changed(self, adapter_name: str, x: Tensor, f: Tensor, turn: Turn) -> Tensor:
        return turn.keep_shut_rows(f + self.lynx_delta[adapter_name](x.to(f.dtype)), f)
