"""A mask of a picture as cells of a grid over a window of it, and back."""

from __future__ import annotations

import numpy as np

Window = tuple[float, float, float, float]  # left, top, width, height in pixels of the picture


def to_cells(mask_HW: np.ndarray, window: Window, rows: int, columns: int) -> np.ndarray:
    """(rows, columns) float32: how much of each cell the mask covers, from 0 to 1.

    Exact areas, also where the edges of cells cut pixels. Where the window reaches beyond the picture there is nothing.
    """
    left, top, width, height = window
    covered = _averaged(mask_HW.astype(np.float32), top, height, rows)
    return _averaged(covered.T, left, width, columns).T


def _averaged(values: np.ndarray, start: float, length: float, cells: int) -> np.ndarray:
    """(cells, ..) means of `values` (n, ..), one a pixel, over parts of equal length from `start` on."""
    summed = np.concatenate([np.zeros((1, *values.shape[1:])), values.cumsum(axis=0, dtype=np.float64)])
    edges = np.clip(start + length * np.arange(cells + 1) / cells, 0, len(values))
    below = np.minimum(edges.astype(int), len(values) - 1)
    at_edges = summed[below] + (edges - below)[:, None] * values[below]
    return (np.diff(at_edges, axis=0) * cells / length).astype(np.float32)


def from_cells(cells: np.ndarray, window: Window, size: tuple[int, int]) -> np.ndarray:
    """(H, W) bool mask of a picture of `size` (width, height) out of probabilities (rows, columns) of cells.

    The pixels at whose centres the probability, bilinear between the centres of cells, is at least 0.5; none outside
    the window.
    """
    left, top, width, height = window
    rows, y_in = _between(cells, top, height, size[1])
    columns, x_in = _between(rows.T, left, width, size[0])
    return (columns.T >= 0.5) & y_in[:, None] & x_in


def _between(values: np.ndarray, start: float, length: float, pixels: int) -> tuple[np.ndarray, np.ndarray]:
    """(pixels, ..) `values` (n, ..) at the centres of pixels, and which of these lie within the window."""
    place = (np.arange(pixels) + 0.5 - start) / length
    at = np.clip(place * len(values) - 0.5, 0, len(values) - 1)
    below = np.minimum(at.astype(int), max(len(values) - 2, 0))
    share = (at - below)[:, None]
    above = np.minimum(below + 1, len(values) - 1)
    return values[below] * (1 - share) + values[above] * share, (place >= 0) & (place <= 1)
