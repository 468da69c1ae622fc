"""Denoising diffusion: the cosine schedule, noising, the way back, and what tells a network the time and the place.

Legend of shape suffixes: `S` diffusion steps, `B` pictures, `N` tokens, `C` channels, `D` width. Times `t_B` are whole
numbers, 0 the least noise.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def cosine_alpha_bar(steps: int = 1000, offset: float = 0.008, max_beta: float = 0.999) -> Tensor:
    """(S,) float64: how much of a picture's variance is left after each step.

    Source: Nichol and Dhariwal 2021 (arXiv 2102.09672), equation 17 and its code: alpha_bar(t) = f(t)/f(0) with f(t) =
    cos^2((t/S + s)/(1 + s) pi/2), betas cut at 0.999, which the last one alone reaches.

    >>> cosine_alpha_bar(1000)[[0, 499, 998]].tolist()          # nearly all, about half, nearly nothing
    [0.9999..., 0.493..., 2.4...e-06]
    """
    time = torch.arange(steps + 1, dtype=torch.float64) / steps
    left = torch.cos((time + offset) / (1 + offset) * math.pi / 2) ** 2
    beta = (1 - left[1:] / left[:-1]).clamp(max=max_beta)
    return (1 - beta).cumprod(0)


def q_sample(clean_BNC: Tensor, noise_BNC: Tensor, alpha_bar_B: Tensor) -> Tensor:
    """(B, N, C) sqrt(alpha_bar) z_0 + sqrt(1 - alpha_bar) eps: Ho et al. 2020 (arXiv 2006.11239), equation 4."""
    kept_B11 = alpha_bar_B.to(clean_BNC.dtype)[:, None, None]
    return kept_B11.sqrt() * clean_BNC + (1 - kept_B11).sqrt() * noise_BNC


def predicted_clean(noisy_BNC: Tensor, noise_BNC: Tensor, alpha_bar_B: Tensor) -> Tensor:
    """(B, N, C) z_0 as `noise_BNC` tells it of `noisy_BNC`: `q_sample` solved for its first argument."""
    kept_B11 = alpha_bar_B.to(noisy_BNC.dtype)[:, None, None]
    return (noisy_BNC - (1 - kept_B11).sqrt() * noise_BNC) / kept_B11.sqrt()


def mean_square(found_BNC: Tensor, true_BNC: Tensor, is_token_BN: Tensor) -> Tensor:
    """(B,) mean over each picture's tokens and channels; what stands beside its tokens does not count."""
    square_BN = (found_BNC - true_BNC).pow(2).mean(dim=-1) * is_token_BN
    return square_BN.sum(dim=1) / is_token_BN.sum(dim=1)


def sincos(value: Tensor, width: int, longest: float = 10_000.0) -> Tensor:
    """(.., width) cosines, then sines, of `value` (..) at width/2 frequencies from 1 down to 1/longest.

    Source: Vaswani et al. 2017, in the order of ADM's and DiT's timestep embedding.
    """
    half = width // 2
    frequency = torch.exp(-math.log(longest) * torch.arange(half, device=value.device, dtype=torch.float32) / half)
    angle = value.float()[..., None] * frequency
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


def sincos_places(row_BN: Tensor, column_BN: Tensor, width: int) -> Tensor:
    """(B, N, width) fixed places on a grid of any size: half of the width says the row, half the column.

    Source: as in MAE and DiT. `width` is a multiple of 4.
    """
    return torch.cat([sincos(row_BN, width // 2), sincos(column_BN, width // 2)], dim=-1)
