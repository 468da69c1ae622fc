"""What objectives that read pictures read: the window that the model sees, and pictures beside their tokens' states."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lynx_moe.data.targets import TARGET
from lynx_moe.errors import RecordError
from lynx_moe.objectives.grids import Grids

PICTURE = f"{TARGET}picture"  # uint8, of the pictures of a batch


def in_window(
    image: Image.Image, window: tuple[float, float, float, float], size: tuple[int, int], colour: tuple[int, int, int]
) -> np.ndarray:
    """(3, height, width) uint8: a window (left, top, width, height) of a picture at `size` (width, height).

    It is squeezed where the sides are not in its proportion, and of `colour` where it is larger than the picture.
    """
    left, top, width, height = window
    shown = Image.new("RGB", (max(1, round(width)), max(1, round(height))), colour)
    shown.paste(image.convert("RGB"), (-round(left), -round(top)))
    return np.asarray(shown.resize(size, Image.Resampling.BILINEAR)).transpose(2, 0, 1).copy()


@dataclass(frozen=True)
class Pictures:
    """P pictures, their tokens row by row, filled up to N, the number of the largest's.

    All together, and not size by size: where weights are divided, every process has to run a head once.

    Attributes:
        grids: (rows, columns) of each. pixels: each (3, H, W) float32 in 0..1.
        states_PND: float32, with a gradient. place_PN2: row and column. is_token_PN: bool.
    """

    grids: list[tuple[int, int]]
    pixels: list[Tensor]
    states_PND: Tensor
    place_PN2: Tensor
    is_token_PN: Tensor

    @classmethod
    def of(cls, states_BLD: Tensor, batch: dict[str, Tensor], cell: int) -> Pictures:
        """Those of a batch with the targets of `grid_targets` and, if it shows any, `PICTURE` at `cell` pixels a token.

        Raises:
            RecordError: the rows show more or fewer pictures than they bring.
        """
        grids, brought = Grids.of(batch), batch.get(PICTURE, ())
        if len(brought) != len(grids):
            raise RecordError(
                f"rows with {len(grids)} grids bring {len(brought)} pictures",
                why="each picture has one grid, and the picture itself is what reconstruction learns from",
                fix="make batches with this package's datasets and Collator",
            )
        sizes = [(rows * cell, columns * cell) for rows, columns in grids.sizes]
        pixels = [each[:, :high, :wide].float() / 255 for each, (high, wide) in zip(brought, sizes, strict=True)]
        N = max((rows * columns for rows, columns in grids.sizes), default=1)
        states_PND = states_BLD.new_zeros(len(grids), N, states_BLD.shape[-1], dtype=torch.float32)
        place_PN2 = torch.zeros(len(grids), N, 2, device=states_BLD.device)
        is_token_PN = torch.zeros(len(grids), N, dtype=torch.bool, device=states_BLD.device)
        for numbers, maps_nDYX in grids.maps(states_BLD):
            rows, columns = maps_nDYX.shape[2:]
            own = slice(rows * columns)
            place = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).view(-1, 2)
            states_PND[numbers, own] = maps_nDYX.flatten(2).transpose(1, 2).float()
            place_PN2[numbers, own] = place.to(place_PN2)
            is_token_PN[numbers, own] = True
        return cls(grids.sizes, pixels, states_PND, place_PN2, is_token_PN)

    def repeated(self, times: int) -> Pictures:
        """Each of them `times` in a row."""
        tensors = {
            name: getattr(self, name).repeat_interleave(times, dim=0)
            for name in ("states_PND", "place_PN2", "is_token_PN")
        }
        twice = [[each for each in some for _ in range(times)] for some in (self.grids, self.pixels)]
        return replace(self, grids=twice[0], pixels=twice[1], **tensors)

    def mixed_up(self) -> Pictures:
        """Each with the states of the picture before it, for a look at what they are worth.

        Where the two grids differ, a token gets the other's that lies at about its place.
        """
        mixed_PND = torch.zeros_like(self.states_PND)
        for number, (rows, columns) in enumerate(self.grids):
            high, wide = self.grids[number - 1]
            row, column = torch.arange(rows) * high // rows, torch.arange(columns) * wide // columns
            mixed_PND[number, : rows * columns] = self.states_PND[number - 1, (row[:, None] * wide + column).flatten()]
        return replace(self, states_PND=mixed_PND)
