"""Which of a picture's tokens form a grid over it, and what window of the picture the grid covers.

Families that cut a picture into tiles show it whole in one more tile, the overview; its tokens are the grid, and those
of the other tiles have none. How many rows and columns there are is asked of the processor, with a blank picture of
the same size, and read off the tokens that it writes. What each family does is from its processor's code in
transformers; which token lies where is tested on real models (`tests/families/test_picture_grid.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from lynx_moe.errors import FamilyError
from lynx_moe.families.dialects.geometry import Geometry, Size


@dataclass(frozen=True, slots=True)
class PictureGrid:
    """Tokens of one picture that lie on a grid.

    Attributes:
        rows, columns: of the grid.
        window: (left, top, width, height) in original pixels of what the grid covers; larger than the picture where it
            was padded, smaller where it was cropped.
        places: (rows * columns,) which of the tokens that stand for the picture the cells are, row by row from the top
            left.
        num_tokens: how many tokens the processor writes for the picture, those beside the grid included.
    """

    rows: int
    columns: int
    window: tuple[float, float, float, float]
    places: np.ndarray
    num_tokens: int

    def cells(self) -> np.ndarray:
        """(rows * columns, 4) centre x, centre y, width and height of each cell, in fractions of the window."""
        row, column = np.divmod(np.arange(self.rows * self.columns), self.columns)
        width, height = np.full(len(row), 1 / self.columns), np.full(len(row), 1 / self.rows)
        return np.stack([(column + 0.5) / self.columns, (row + 0.5) / self.rows, width, height], axis=1)


def picture_grid(processor: Any, size: Size) -> PictureGrid:
    """The grid of a picture of `size` (width, height) as `processor` hands it to its model.

    Raises:
        FamilyError: this family's picture tokens lie on no grid, or nobody has looked whether they do.
    """
    names = [kind.__name__ for kind in type(processor).__mro__]
    read = next((GRIDS[name] for name in names if name in GRIDS), None)
    if read is None:
        why = next((NO_GRID[name] for name in names if name in NO_GRID), None)
        raise FamilyError(
            f"the picture tokens of {type(processor).__name__} lie on no grid that is known",
            why=why or f"known are those of {', '.join(sorted(GRIDS))}",
            fix="leave out what needs a grid (objective.regions.contrast=0 objective.regions.matching=0), or add the "
            "family to lynx_moe/families/picture_grid.py with a test",
        )
    # As samples ask for them too: what the processor writes for one picture and nothing else.
    text = str(processor.image_token)
    made = processor(images=Image.new("RGB", size), text=text, add_special_tokens=False, return_tensors="pt")
    ids = np.asarray(made["input_ids"][0])
    found = np.flatnonzero(ids == processor.tokenizer.convert_tokens_to_ids(text))
    rows, columns, places = read(processor, made, ids, found)
    if not len(places) or rows * columns != len(places):
        raise FamilyError(
            f"{type(processor).__name__} gives a picture of {size[0]}x{size[1]} {len(found)} tokens, of which "
            f"{len(places)} were to be a grid of {rows} x {columns}",
            why="its settings and the tokens that it writes do not agree",
            fix="look at patch size, feature strategy and tiling in the processor's settings",
        )
    return PictureGrid(rows, columns, Geometry.from_processor(processor).window(size), places, len(ids))


# Each takes the processor, what it made, its token ids and where among them the picture tokens are; and gives rows,
# columns and, of those places, the grid's.
Layout = Callable[[Any, Any, np.ndarray, np.ndarray], tuple[int, int, np.ndarray]]


def _patches(processor, made, ids, found):
    """All of one picture, in patches of a stated size, behind a class token where it keeps one (LLaVA)."""
    height, width = made["pixel_values"].shape[-2:]
    rows, columns = height // processor.patch_size, width // processor.patch_size
    return rows, columns, found[len(found) - rows * columns :]


def _square(found):
    side = math.isqrt(len(found))
    return side, side, found


def _one_square(processor, made, ids, found):
    return _square(found)


def _overview_of_patches(processor, made, ids, found):
    """The overview first, behind a class token where it keeps one; then tiles with a token at each line's end."""
    height, width = made["pixel_values"].shape[-2:]
    rows, columns = height // processor.patch_size, width // processor.patch_size
    skipped = processor.num_additional_image_tokens - (processor.vision_feature_select_strategy == "default")
    return rows, columns, found[skipped : skipped + rows * columns]


def _overview_of_a_number(processor, made, ids, found):
    dropped = processor.vision_feature_select_strategy == "default"
    return _square(found[: processor.num_image_tokens - dropped])


def _overview_first(processor, made, ids, found):
    """The overview, then crops; the token that its prompts hold stands before the picture's own (Gemma 3)."""
    own = np.flatnonzero(ids == processor.tokenizer.image_token_id)
    return _square(own[: processor.image_seq_length])


def _overview_last(processor, made, ids, found):
    """Its tiles, then the overview; a picture of one tile is its own."""
    per_tile = getattr(processor, "image_seq_length", None) or processor.image_seq_len
    return _square(found[len(found) - per_tile :])


def _merged_patches(processor, made, ids, found):
    """Patches of the picture at its own size, each square of `merge_size` of them one token."""
    _, height, width = (int(number) for number in made["image_grid_thw"][0])
    merge = processor.image_processor.merge_size
    return height // merge, width // merge, found


GRIDS: dict[str, Layout] = {
    "LlavaProcessor": _patches,
    "PaliGemmaProcessor": _one_square,
    "Gemma3Processor": _overview_first,
    "LlavaNextProcessor": _overview_of_patches,
    "LlavaOnevisionProcessor": _overview_of_a_number,
    "InternVLProcessor": _overview_last,
    "Idefics3Processor": _overview_last,
    "SmolVLMProcessor": _overview_last,
    "Qwen2VLProcessor": _merged_patches,
    "Qwen2_5_VLProcessor": _merged_patches,
    "Qwen3VLProcessor": _merged_patches,
}
_QUERIES = "its tokens are learned queries that look at the whole picture, none at one place"
NO_GRID = {
    "AriaProcessor": _QUERIES,
    "Blip2Processor": _QUERIES,
    "Idefics2Processor": _QUERIES,
    "InstructBlipProcessor": _QUERIES,
    "Kosmos2Processor": _QUERIES,
    "MllamaProcessor": "its layers attend to the picture from beside; one token stands for all of it",
    "Florence2Processor": "its picture tokens go into an encoder, and the decoder has no states of them",
}
