"""Where a picture's tokens lie and which window of it they cover, as plain data for a modelling file.

An exported folder knows no families. What it needs of them is found by asking the family's own code about pictures of a
few shapes, and by looking which of a few plain rules says the same of all of them; where none does, no file is written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from lynx_moe.data import Record, SampleBuilder
from lynx_moe.data.prompts import messages
from lynx_moe.errors import LynxError
from lynx_moe.families.dialects import get_dialect
from lynx_moe.families.dialects.geometry import Geometry
from lynx_moe.families.picture_grid import PictureGrid, picture_grid

# Squares, both ways of lying, and more tiles or patches than one: rules that agree on all of these are the same rule.
SHAPES = ((96, 96), (224, 168), (168, 224), (640, 300), (300, 640))
QUESTION = "What is there?"


@dataclass(frozen=True)
class Seen:
    """A picture of one shape: its grid, where among its tokens those of the grid's id are, and what is made of it."""

    grid: PictureGrid
    found: np.ndarray
    pixels: dict[str, Any]

    @property
    def first(self) -> int | None:
        """Which of the tokens found is the grid's first; None where its cells do not follow each other."""
        at = np.searchsorted(self.found, self.grid.places)
        return int(at[0]) if np.array_equal(at, np.arange(at[0], at[0] + len(at))) else None


def picture_data(processor: Any) -> dict[str, Any] | str:
    """A processor's pictures as plain data for `config.lynx`, or why they are none, in words that follow "because".

    Returns:
        "token", the id of the grid's tokens; "layout", which of these tokens in a prompt of one picture are the grid:
        {"rows", "columns", "start"} for one of one size (a negative start counts from behind), {"merge"} where rows and
        columns are those of `image_grid_thw` over it, {} where a line of the grid is a run of tokens; "pad_square",
        "resize" and "crop", as of `Geometry`.
    """
    if processor is None:
        return "without its processor nobody can tell where a picture's tokens lie"
    name = type(processor).__name__
    try:
        builder = SampleBuilder(processor, get_dialect("percent", processor))
        grids = [picture_grid(processor, size) for size in SHAPES]
        geometry = Geometry.from_processor(processor)
        as_trained = all(_words_as_training(builder, size) for size in SHAPES)
    except LynxError as problem:
        return f"{problem.message}: {problem.why}"
    except ValueError as problem:
        return f"{name} takes no prompt with a picture as its template words one: {problem}"
    if not as_trained:
        return f"{name} makes other tokens of a worded prompt than those that were trained on"
    windows = [geometry.window(size) for size in SHAPES]
    if geometry.corner is not None or windows != [grid.window for grid in grids]:
        return f"{name} pads pictures in a way that the file has no words for"
    ids = [builder.picture_ids(size) for size in SHAPES]
    tokens = {int(token) for grid, own in zip(grids, ids, strict=True) for token in own[grid.places]}
    if len(tokens) > 1:
        return f"the grids of {name} are of {len(tokens)} different tokens"
    token = tokens.pop()
    seen = [
        Seen(grid, np.flatnonzero(own == token), builder.pixels(Image.new("RGB", size)))
        for grid, own, size in zip(grids, ids, SHAPES, strict=True)
    ]
    layout = next(
        (found for rule in (_of_one_size, _merged, _lines) if (found := rule(seen, processor)) is not None), None
    )
    if layout is None:
        return f"how the grid of {name} follows from a picture's size is no rule that the file has"
    return {
        "token": token,
        "layout": layout,
        "pad_square": geometry.pad_square,
        "resize": geometry.resize,
        "crop": None if geometry.crop is None else list(geometry.crop),
    }


Rule = Callable[[Sequence[Seen], Any], dict[str, int] | None]


def _of_one_size(seen: Sequence[Seen], processor: Any) -> dict[str, int] | None:
    sizes = {(each.grid.rows, each.grid.columns) for each in seen}
    if len(sizes) > 1 or any(each.first is None for each in seen):
        return None
    rows, columns = sizes.pop()
    for starts in ({each.first for each in seen}, {each.first - len(each.found) for each in seen}):
        if len(starts) == 1:
            return {"rows": rows, "columns": columns, "start": starts.pop()}
    return None


def _merged(seen: Sequence[Seen], processor: Any) -> dict[str, int] | None:
    merge = getattr(processor.image_processor, "merge_size", None)
    if merge is None or not all("image_grid_thw" in each.pixels and _is_all(each) for each in seen):
        return None
    told = [[int(side) // merge for side in each.pixels["image_grid_thw"][0][1:]] for each in seen]
    return {"merge": merge} if told == [[each.grid.rows, each.grid.columns] for each in seen] else None


def _lines(seen: Sequence[Seen], processor: Any) -> dict[str, int] | None:
    def runs(each: Seen) -> list[int]:
        return [len(run) for run in np.split(each.found, np.flatnonzero(np.diff(each.found) > 1) + 1)]

    fits = all(_is_all(each) and runs(each) == [each.grid.columns] * each.grid.rows for each in seen)
    return {} if fits else None


def _is_all(each: Seen) -> bool:
    return each.first == 0 and len(each.found) == len(each.grid.places)


def _words_as_training(builder: SampleBuilder, size: tuple[int, int]) -> bool:
    """Whether a processor, called as the modelling file calls it, gives the tokens of our own samples."""
    processor = builder.processor
    record = Record(id="", question=QUESTION, answer="", kind="grounding", task="", size=size, load=None)
    text = processor.apply_chat_template(messages(QUESTION, pictures=1), add_generation_prompt=True)
    bos = processor.tokenizer.bos_token
    special = not (bos and text.startswith(bos))
    made = processor(text=[text], images=[[Image.new("RGB", size)]], add_special_tokens=special, return_tensors="pt")
    return made["input_ids"][0].tolist() == builder.spread(builder.prompts([record])[0], [size]).tolist()
