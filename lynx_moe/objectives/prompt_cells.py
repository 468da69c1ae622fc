"""Which cells of a picture's grid of tokens a box, a point or a mask covers."""

from __future__ import annotations

import numpy as np

from lynx_moe.families.picture_grid import PictureGrid
from lynx_moe.grounding import Box
from lynx_moe.grounding.mask_cells import to_cells

HALF = 0.5


def box_cells(box: Box, grid: PictureGrid) -> np.ndarray:
    """(rows, columns) bool: the cells whose centre lies in the box, and the one (or several alike) that it covers most.

    At least one, of a box that the grid shows something of.
    """
    (y_in, y_share), (x_in, x_share) = (
        _along(low, high, grid.window[axis], grid.window[2 + axis], count)
        for low, high, axis, count in ((box.y1, box.y2, 1, grid.rows), (box.x1, box.x2, 0, grid.columns))
    )
    return np.outer(y_in, x_in) | _most(np.outer(y_share, x_share))


def point_cells(point: tuple[float, float], grid: PictureGrid) -> np.ndarray:
    """(rows, columns) bool: the cell that the point (x, y) lies in; on an edge between two the one behind it."""
    left, top, width, height = grid.window
    column, row = (point[0] - left) / width * grid.columns, (point[1] - top) / height * grid.rows
    covered = np.zeros((grid.rows, grid.columns), dtype=bool)
    covered[min(int(row), grid.rows - 1), min(int(column), grid.columns - 1)] = True
    return covered


def mask_cells(mask_HW: np.ndarray, grid: PictureGrid) -> np.ndarray:
    """(rows, columns) bool: the cells of which the mask covers half or more, else the one that it covers most; none
    where the grid shows nothing of it.
    """
    share = to_cells(mask_HW, grid.window, grid.rows, grid.columns)
    covered = share >= HALF
    return covered if covered.any() else _most(share)


def _most(share: np.ndarray) -> np.ndarray:
    """Bool: where a share is the largest, up to rounding; nowhere where all are 0."""
    return (share > 0) & (share >= share.max() * (1 - 1e-6))


def _along(low: float, high: float, start: float, length: float, cells: int) -> tuple[np.ndarray, np.ndarray]:
    """Of the cells along one side: whether the stretch holds their centre, and how much of them it covers."""
    edges = start + length * np.arange(cells + 1) / cells
    centres = (edges[:-1] + edges[1:]) / 2
    shared = np.clip(np.minimum(high, edges[1:]) - np.maximum(low, edges[:-1]), 0, None)
    return (centres >= low) & (centres < high), shared
