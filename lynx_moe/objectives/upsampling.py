"""Learnable upsampling of a picture's map of states, as in Pixel-SAIL: transposed, then depth-wise convolutions.

The paper (arXiv 2504.10465) names the two convolutions and the sizes, H/S to H/4. That each block doubles the size, the
width it works in, the norm and the activation between the two and the kernels are our choice.
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from lynx_moe.families.picture_grid import PictureGrid

FINE = 4  # pixels of the model's input along a cell of the fine map


def blocks_for(grid: PictureGrid) -> int:
    """How many blocks bring a grid's cells down to `FINE` pixels, or nearest to it; 0 where they are no larger."""
    return max(0, round(math.log2(grid.cell / FINE)))


class UpsamplingBlock(nn.Module):
    """Twice the rows and columns: transposed 2-D convolution, norm over channels, GELU, depth-wise convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.up = nn.ConvTranspose2d(channels, channels, kernel_size=2, stride=2)
        self.norm = nn.LayerNorm(channels)
        self.spread = nn.Conv2d(channels, channels, kernel_size=3, padding=1, groups=channels)

    def forward(self, map_PCHW: Tensor, inside_P1HW: Tensor) -> Tensor:
        """(P, C, 2H, 2W), 0 outside `inside_P1HW`, which is of that size."""
        finer_PCHW = self.norm(self.up(map_PCHW).movedim(1, -1)).movedim(-1, 1)
        # What lies outside must be 0 before its neighbours look at it: a map is then what it would be by itself.
        return self.spread(F.gelu(finer_PCHW) * inside_P1HW) * inside_P1HW


class Upsampling(nn.Module):
    """Maps of different sizes, filled up to one, to maps of 2 to the power of `blocks` times their rows and columns.

    Args:
        width: of the states. channels: of the map that comes out.
    """

    def __init__(self, width: int, channels: int, blocks: int):
        super().__init__()
        self.project = nn.Conv2d(width, channels, kernel_size=1)
        self.blocks = nn.ModuleList(UpsamplingBlock(channels) for _ in range(blocks))

    def forward(self, map_PDHW: Tensor, inside_PHW: Tensor) -> tuple[Tensor, Tensor]:
        """The fine maps (P, C, H', W'), and which of their cells are a picture's (P, H', W').

        Args:
            map_PDHW: for P pictures, none included.
            inside_PHW: 1 where a map has a cell, 0 where it was filled up.
        """
        inside_P1HW = inside_PHW[:, None].to(map_PDHW.dtype)
        map_PCHW = self.project(map_PDHW) * inside_P1HW
        for block in self.blocks:
            inside_P1HW = inside_P1HW.repeat_interleave(2, -2).repeat_interleave(2, -1)
            map_PCHW = block(map_PCHW, inside_P1HW)
        return map_PCHW, inside_P1HW[:, 0]
