"""Which of a picture's tokens form a grid over it, and what window of the picture the grid covers.

Families that cut a picture into tiles show it whole in one more tile, the overview; its tokens are the grid unless that
of all tiles (`finest_grid`) is asked for. How many rows and columns there are is asked of the processor, with a blank
picture of the same size, and read off the tokens that it writes. What each family does is from its processor's code in
transformers; which token lies where is tested on real models (`tests/families`).
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
from lynx_moe.families.finest_grid import FINEST
from lynx_moe.families.picture_tokens import picture_alone, picture_token_ids


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
        cell: pixels of the model's input along a side of a cell: patch size times what is merged.
    """

    rows: int
    columns: int
    window: tuple[float, float, float, float]
    places: np.ndarray
    num_tokens: int
    cell: float

    def cells(self) -> np.ndarray:
        """(rows * columns, 4) centre x, centre y, width and height of each cell, in fractions of the window."""
        row, column = np.divmod(np.arange(self.rows * self.columns), self.columns)
        width, height = np.full(len(row), 1 / self.columns), np.full(len(row), 1 / self.rows)
        return np.stack([(column + 0.5) / self.columns, (row + 0.5) / self.rows, width, height], axis=1)


def picture_grid(processor: Any, size: Size, finest: bool = False) -> PictureGrid:
    """The grid of a picture of `size` (width, height) as `processor` hands it to its model.

    Args:
        finest: where the picture is cut into tiles that together cover it, the grid of all of them; else, and where
            nobody has looked how they lie, that of the overview.

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
            fix="leave what needs a grid (objective.regions.contrast=0 objective.regions.matching=0; masks; distil) "
            "or add it to lynx_moe/families/picture_grid.py with a test",
        )
    made = picture_alone(processor, Image.new("RGB", size))
    ids = picture_token_ids(processor, made)
    found = np.flatnonzero(ids == processor.tokenizer.convert_tokens_to_ids(token_of_patches(processor)))
    finer = next((FINEST[name] for name in names if name in FINEST), None) if finest else None
    if finer is not None and (told := finer(processor, made, found, size)):
        rows, columns, places, cell, window = told
    else:
        rows, columns, places, cell = read(processor, made, ids, found)
        window = Geometry.from_processor(processor).window(size)
    if not len(places) or rows * columns != len(places):
        raise FamilyError(
            f"{type(processor).__name__} gives a picture of {size[0]}x{size[1]} {len(found)} tokens, of which "
            f"{len(places)} were to be a grid of {rows} x {columns}",
            why="its settings and the tokens that it writes do not agree",
            fix="look at patch size, feature strategy and tiling in the processor's settings",
        )
    return PictureGrid(rows, columns, window, places, len(ids), cell)


def token_of_patches(processor: Any) -> str:
    """What stands for one patch, where that is not what stands for the picture in a prompt."""
    own = "<IMG_ATOM>" if "<IMG_ATOM>" in processor.tokenizer.get_vocab() else None  # Ovis 2
    return str(getattr(processor, "img_patch_token", None) or own or processor.image_token)


# Each takes the processor, what it made, its token ids and where among them the picture tokens are; and gives rows,
# columns, of those places the grid's, and pixels of the model's input along a side of a cell.
Layout = Callable[[Any, Any, np.ndarray, np.ndarray], tuple[int, int, np.ndarray, float]]


def _patches(processor, made, ids, found):
    """All of one picture, in patches of a stated size, behind a class token where it keeps one (LLaVA)."""
    height, width = made["pixel_values"].shape[-2:]
    rows, columns = height // processor.patch_size, width // processor.patch_size
    return rows, columns, found[len(found) - rows * columns :], processor.patch_size


def _square(made, found):
    """All of a square input."""
    side = math.isqrt(len(found))
    return side, side, found, made["pixel_values"].shape[-1] / max(side, 1)


def _one_square(processor, made, ids, found):
    return _square(made, found)


def _overview_of_patches(processor, made, ids, found):
    """The overview first, behind a class token where it keeps one; then tiles with a token at each line's end."""
    height, width = made["pixel_values"].shape[-2:]
    rows, columns = height // processor.patch_size, width // processor.patch_size
    skipped = processor.num_additional_image_tokens - (processor.vision_feature_select_strategy == "default")
    return rows, columns, found[skipped : skipped + rows * columns], processor.patch_size


def _overview_of_a_number(processor, made, ids, found):
    dropped = processor.vision_feature_select_strategy == "default"
    return _square(made, found[: processor.num_image_tokens - dropped])


def _overview_first(processor, made, ids, found):
    """The overview, then crops; the token that its prompts hold stands before the picture's own (Gemma 3)."""
    own = np.flatnonzero(ids == processor.tokenizer.image_token_id)
    return _square(made, own[: processor.image_seq_length])


def _overview_last(processor, made, ids, found):
    """Its tiles, then the overview; a picture of one tile is its own."""
    per_tile = getattr(processor, "image_seq_length", None) or processor.image_seq_len
    return _square(made, found[len(found) - per_tile :])


def _merged_patches(processor, made, ids, found):
    """Patches of the picture at its own size, each square of `merge_size` of them one token."""
    _, height, width = (int(number) for number in made["image_grid_thw"][0])
    merge = processor.image_processor.merge_size
    return height // merge, width // merge, found, processor.image_processor.patch_size * merge


def _raw_patches(processor, made, ids, found):
    """Patches of a picture without a vision tower, each row ended by a token of its own (Fuyu)."""
    ends = np.flatnonzero(ids == processor.image_newline_id)
    columns = int(ends[0] - found[0]) if len(ends) else 0
    return len(ends), columns, found, _side(processor.image_processor.patch_size)


def _rows_with_ends(processor, made, ids, found):
    """A picture at its own size, each row of its tokens ended by one of another name (Pixtral)."""
    step = processor.patch_size * processor.spatial_merge_size
    height, width = (int(side) for side in made["image_sizes"][0])
    return height // step, width // step, found, step


def _words_with_ends(processor, made, ids, found):
    """Words of a codebook, one more of the same name at each row's end (Emu3)."""
    step = processor.downsample_ratio
    rows, columns = (int(side) // step for side in made["image_sizes"][0])
    return rows, columns, found.reshape(rows, columns + 1)[:, :columns].reshape(-1), step


def _overview_before_tiles(processor, made, ids, found):
    return _square(made, found[: processor.image_seq_length])


def _overview_behind_tiles(processor, made, ids, found):
    per_tile = (processor.img_size // processor.patch_size) ** 2
    return _square(made, found[len(found) - per_tile :])


def _side(size):
    return float(size["height"] if isinstance(size, dict) else getattr(size, "height", size))


GRIDS: dict[str, Layout] = {
    "FuyuProcessor": _raw_patches,
    "ChameleonProcessor": _one_square,
    "Emu3Processor": _words_with_ends,
    "DeepseekVLProcessor": _one_square,
    "JanusProcessor": _one_square,
    "PixtralProcessor": _rows_with_ends,
    "Glm4vProcessor": _merged_patches,
    "Glm46VProcessor": _merged_patches,
    "AyaVisionProcessor": _overview_behind_tiles,
    "Ovis2Processor": _overview_before_tiles,
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
_ENCODED = "its picture tokens go into an encoder, and the decoder has no states of them"
NO_GRID = {
    "AriaProcessor": _QUERIES,
    "Blip2Processor": _QUERIES,
    "Idefics2Processor": _QUERIES,
    "InstructBlipVideoProcessor": _QUERIES,
    "Kosmos2_5Processor": _QUERIES,
    "InstructBlipProcessor": _QUERIES,
    "Kosmos2Processor": _QUERIES,
    "IdeficsProcessor": "its layers attend to the picture from beside; one token stands for all of it",
    "MllamaProcessor": "its layers attend to the picture from beside; one token stands for all of it",
    "Pix2StructProcessor": _ENCODED,
    "UdopProcessor": _ENCODED,
    "Florence2Processor": _ENCODED,
}
