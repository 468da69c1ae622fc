"""A small diffusion transformer over a picture's tokens, each conditioned on a state of its own.

From ROSS's code (Haochen-Wang409/ross, `denoiser_dit.RossDenoiser`): DiT blocks with adaLN-Zero, whose six chunks come
of each token's own condition c_i = Linear(SiLU(LayerNorm(h_i))) + MLP(sincos(t)); fixed 2-D sin-cos places, patches of
one token, a last adaLN, output zero at the start.

Legend of shape suffixes: `B` pictures (copies counted), `N` tokens of the largest, `C` channels of a token, `D` width
of the decoder's states, `W` own width.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from lynx_moe.ops.diffusion import sincos, sincos_places

TIMES = 256  # width in which times are written, as in DiT


class Denoiser(nn.Module):
    """Tells the noise in noisy tokens.

    Args:
        states: width D of the conditioning states. channels: C. width: W, a multiple of 4 and of `heads`.
        depth: how many blocks; the paper's is 3, at width 1024 with 16 heads.
    """

    def __init__(self, *, states: int, channels: int, width: int, depth: int, heads: int):
        super().__init__()
        self.width = width
        self.of_token = nn.Linear(channels, width)
        self.of_state = nn.Linear(states, width)
        self.of_time = nn.Sequential(nn.Linear(TIMES, width), nn.SiLU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList([Block(width, heads) for _ in range(depth)])
        self.modulation = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, channels)
        for linear in (m for m in self.modules() if isinstance(m, nn.Linear)):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)
        for linear in (self.of_token, self.of_time[0], self.of_time[2]):
            nn.init.normal_(linear.weight, std=0.02)
        # adaLN-Zero: every block starts as the identity, and what is told as nothing.
        for linear in (self.modulation, self.out, *(block.modulation for block in self.blocks)):
            nn.init.zeros_(linear.weight)

    def forward(
        self, noisy_BNC: Tensor, time_B: Tensor, states_BND: Tensor, place_BN2: Tensor, is_token_BN: Tensor
    ) -> Tensor:
        """(B, N, C) the noise, as it is told.

        Args:
            time_B: steps of diffusion, from 0. states_BND: float32.
            place_BN2: row and column of each token. is_token_BN: bool; the rest fills up and is not attended to.
        """
        places_BNW = sincos_places(place_BN2[..., 0], place_BN2[..., 1], self.width)
        x_BNW = self.of_token(noisy_BNC) + places_BNW
        told_BNW = self.of_state(F.silu(F.layer_norm(states_BND, states_BND.shape[-1:])))
        condition_BNW = F.silu(told_BNW + self.of_time(sincos(time_B, TIMES))[:, None])
        for block in self.blocks:
            x_BNW = block(x_BNW, condition_BNW, is_token_BN)
        shift_BNW, scale_BNW = self.modulation(condition_BNW).chunk(2, dim=-1)
        return self.out(modulated(x_BNW, shift_BNW, scale_BNW))


class Block(nn.Module):
    """Attention and an MLP, each between an adaptive norm and an adaptive gate: Peebles and Xie 2023 (2212.09748)."""

    def __init__(self, width: int, heads: int, mlp_ratio: int = 4):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.attended = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, mlp_ratio * width), nn.GELU(approximate="tanh"), nn.Linear(mlp_ratio * width, width)
        )
        self.modulation = nn.Linear(width, 6 * width)

    def forward(self, x_BNW: Tensor, condition_BNW: Tensor, is_token_BN: Tensor) -> Tensor:
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = self.modulation(condition_BNW).chunk(6, dim=-1)
        x_BNW = x_BNW + gate * self._attention(modulated(x_BNW, shift, scale), is_token_BN)
        return x_BNW + mlp_gate * self.mlp(modulated(x_BNW, mlp_shift, mlp_scale))

    def _attention(self, x_BNW: Tensor, is_token_BN: Tensor) -> Tensor:
        B, N, W = x_BNW.shape
        q, k, v = self.qkv(x_BNW).view(B, N, 3, self.heads, W // self.heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=is_token_BN[:, None, None])
        return self.attended(mixed.transpose(1, 2).reshape(B, N, W))


def modulated(x_BNW: Tensor, shift_BNW: Tensor, scale_BNW: Tensor) -> Tensor:
    """Normalised without weights, then scaled and shifted by each token's condition."""
    return F.layer_norm(x_BNW, x_BNW.shape[-1:], eps=1e-6) * (1 + scale_BNW) + shift_BNW


class Regressor(nn.Module):
    """Tells a token from its state alone: LayerNorm, Linear, GELU, Linear. What ROSS regresses with is not known to us;
    this is our choice.
    """

    def __init__(self, *, states: int, channels: int, width: int):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(states, width), nn.GELU(), nn.Linear(width, channels))

    def forward(self, states_BND: Tensor) -> Tensor:
        return self.net(F.layer_norm(states_BND, states_BND.shape[-1:]))
