"""The pictures of a batch as maps of their tokens' states: for objectives that read a picture cell by cell."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lynx_moe.data.targets import TARGET
from lynx_moe.families.picture_grid import picture_grid

ROW, COLUMN = f"{TARGET}grid_row", f"{TARGET}grid_column"
NAMES = {ROW: torch.int16, COLUMN: torch.int16}  # counted from 1; 0: the token is no cell
# The same of the grid of all tiles: objectives that read the overview may stand beside one that reads these.
FINEST_NAMES = {f"{TARGET}tile_row": torch.int16, f"{TARGET}tile_column": torch.int16}


def grid_targets(processor: Any, size: tuple[int, int], finest: bool = False) -> dict[str, np.ndarray]:
    """(P,) row and column, from 1, of each token of a picture of `size` in its grid; 0 for tokens beside it.

    Args:
        finest: the grid of all tiles where there is one (`picture_grid`), by `FINEST_NAMES`; else by `NAMES`.

    Raises:
        FamilyError: this family's picture tokens lie on no grid.
    """
    grid = picture_grid(processor, size, finest)
    made = {}
    for name, place in zip(
        FINEST_NAMES if finest else NAMES, np.divmod(np.arange(grid.rows * grid.columns), grid.columns), strict=True
    ):
        made[name] = np.zeros(grid.num_tokens, dtype=np.int16)
        made[name][grid.places] = place + 1
    return made


@dataclass(frozen=True)
class Grids:
    """Where the pictures of a batch are, P of them in the order in which its rows show them.

    Attributes:
        picture_BL: (B, L) number of the picture whose grid began last in the row, this token included; -1 before any.
        row_P: (P,) rows of the batch. sizes: (rows, columns) of each grid.
    """

    picture_BL: Tensor
    row_P: Tensor
    sizes: list[tuple[int, int]]
    _row_BL: Tensor
    _column_BL: Tensor

    @classmethod
    def of(cls, batch: dict[str, Tensor], finest: bool = False) -> Grids:
        """The grids of a batch with the targets `NAMES`, or `FINEST_NAMES`; a picture's first cell begins it."""
        row_BL, column_BL = (batch[name].long() for name in (FINEST_NAMES if finest else NAMES))
        begins_BL = (row_BL == 1) & (column_BL == 1)
        own_BL = begins_BL.long().cumsum(dim=1)
        before_B = own_BL[:, -1].cumsum(0) - own_BL[:, -1]
        picture_BL = torch.where(own_BL > 0, own_BL - 1 + before_B[:, None], -1)
        row_P = begins_BL.nonzero()[:, 0]
        cell_BL, sizes = row_BL > 0, []
        size_P2 = torch.zeros(len(row_P), 2, dtype=torch.long, device=row_BL.device)
        of_cells = picture_BL[cell_BL]
        for axis, place_BL in enumerate((row_BL, column_BL)):
            size_P2[:, axis] = size_P2[:, axis].scatter_reduce(0, of_cells, place_BL[cell_BL], "amax")
        sizes = [tuple(size) for size in size_P2.tolist()]
        return cls(picture_BL, row_P, sizes, row_BL, column_BL)

    def __len__(self) -> int:
        return len(self.sizes)

    def maps(self, states_BLD: Tensor, wanted: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """States of whole pictures as maps, those of one size together: numbers (n,) and maps (n, D, rows, columns).

        Args:
            states_BLD: a state for each token; gradients flow back to it.
            wanted: (P,) bool, which pictures; None for all.
        """
        cell_b, cell_l = (self._row_BL > 0).nonzero(as_tuple=True)
        picture_C = self.picture_BL[cell_b, cell_l]
        place_C = [(axis[cell_b, cell_l] - 1) for axis in (self._row_BL, self._column_BL)]
        chosen = range(len(self)) if wanted is None else wanted.nonzero().squeeze(1).tolist()
        for size in sorted({self.sizes[p] for p in chosen}):
            numbers = torch.tensor([p for p in chosen if self.sizes[p] == size], device=picture_C.device)
            index_P = torch.full((len(self),), -1, device=picture_C.device)
            index_P[numbers] = torch.arange(len(numbers), device=picture_C.device)
            of_C = index_P[picture_C]
            kept = of_C >= 0
            made = states_BLD.new_zeros(len(numbers), *size, states_BLD.shape[-1])
            at = (of_C[kept], place_C[0][kept], place_C[1][kept])
            made = made.index_put(at, states_BLD[cell_b[kept], cell_l[kept]])
            yield numbers, made.permute(0, 3, 1, 2)
