"""The grid of all tiles together, of families that cut a picture into tiles which cover it whole.

Finer than the overview's. Each function takes what those of `picture_grid` take and the picture's size, and gives as
they do rows, columns, places among the picture tokens and the size of a cell; and the window that the grid covers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

Window = tuple[float, float, float, float]
Finest = Callable[[Any, Any, np.ndarray, tuple[int, int]], tuple[int, int, np.ndarray, float, Window] | None]


def _rows_of_all_tiles(processor, made, found, size):
    """Tiles put together, what was padding cut off by whole patches, each row ended by a token (LLaVA-NeXT and
    LLaVA-OneVision, which makes the map smaller where it has too many cells); as their `unpad_image` has it.
    """
    from transformers.image_processing_utils import select_best_resolution

    (width, height), tile = size, made["pixel_values"].shape[-1]
    several = getattr(processor, "vision_aspect_ratio", None)
    side = math.isqrt(processor.num_image_tokens) if several else tile // processor.patch_size
    best = select_best_resolution((height, width), processor.image_processor.image_grid_pinpoints)
    scales = best[0] / height, best[1] / width
    # Height and width of the picture inside its canvas, in pixels; one of them is the canvas's.
    inside = (
        (min(math.ceil(height * scales[1]), best[0]), best[1])
        if scales[1] < scales[0]
        else (best[0], min(math.ceil(width * scales[0]), best[1]))
    )
    all_cells = [pixels // tile * side for pixels in best]
    if width / height > all_cells[1] / all_cells[0]:
        seen = int(round(height * (all_cells[1] / width), 7)), all_cells[1]
    else:
        seen = all_cells[0], int(round(width * (all_cells[0] / height), 7))
    cut = [(whole - part) // 2 for whole, part in zip(all_cells, seen, strict=True)]
    rows, columns = (whole - 2 * off for whole, off in zip(all_cells, cut, strict=True))
    patch = tile / side
    window = []
    for off, cells, canvas, part, own in zip(cut, (rows, columns), best, inside, (height, width), strict=True):
        per = own / part  # pixels of the picture in one of the canvas
        window.append(((off * patch - (canvas - part) // 2) * per, cells * patch * per))
    (top, window_height), (left, window_width) = window
    ratio = 1.0
    if several:
        ratio = math.sqrt(rows * columns / (int(several.removeprefix("anyres_max_")) * side**2))
    if ratio > 1.1:
        rows, columns = int(rows // ratio), int(columns // ratio)
    count = rows * (columns + 1)
    places = found[len(found) - count :].reshape(rows, columns + 1)[:, :columns].reshape(-1)
    cell = math.sqrt(window_width * window_height / (rows * columns)) * math.sqrt(
        inside[0] * inside[1] / (width * height)
    )
    return rows, columns, places, cell, (left, top, window_width, window_height)


def _tiles_by_rows(processor, made, found, size):
    """Idefics3 and SmolVLM: tiles row by row, then the overview."""
    told = processor.image_processor(images=Image.new("RGB", size), return_row_col_info=True)
    return _tiles(made, found, size, processor.image_seq_len, told["rows"][0][0], told["cols"][0][0])


def _tiles_on_a_canvas(processor, made, found, size):
    """InternVL: as many tiles as fit the picture's proportion, row by row, then the overview."""
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas

    images, own = processor.image_processor, getattr(processor, "images_kwargs", {})
    low, high = (own.get(name, getattr(images, name)) for name in ("min_patches", "max_patches"))
    tile = made["pixel_values"].shape[-1]
    columns, rows = get_optimal_tiled_canvas(size[::-1], (tile, tile), low, high)
    return _tiles(made, found, size, len(found) // len(made["pixel_values"]), rows, columns)


def _tiles(made, found, size, per_tile, tile_rows, tile_columns):
    """Square tiles that cover the picture, row by row before anything else."""
    number, side = tile_rows * tile_columns, math.isqrt(per_tile)
    if number < 2 or len(found) < number * per_tile:
        return None
    own = found[: number * per_tile].reshape(tile_rows, tile_columns, side, side)
    places = own.transpose(0, 2, 1, 3).reshape(-1)
    cell = made["pixel_values"].shape[-1] / side
    return tile_rows * side, tile_columns * side, places, cell, (0.0, 0.0, float(size[0]), float(size[1]))


FINEST: dict[str, Finest] = {
    "LlavaNextProcessor": _rows_of_all_tiles,
    "LlavaOnevisionProcessor": _rows_of_all_tiles,
    "InternVLProcessor": _tiles_on_a_canvas,
    "AyaVisionProcessor": _tiles_on_a_canvas,
    "Idefics3Processor": _tiles_by_rows,
    "SmolVLMProcessor": _tiles_by_rows,
}
