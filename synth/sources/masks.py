"""Outlines of objects made into masks, when somebody looks: polygons, run lengths of COCO, painted pictures of ids.

An outline is a plain dict with one key: ``polygons`` [[x, y, x, y, ...], ...] in the units of the boxes; ``rle``
{"size": [height, width], "counts": run lengths or COCO's compressed text}; ``ellipse`` [cx, cy, rx, ry]; ``patch``
{"box": [left, top, width, height], "counts": run lengths along its rows}; ``ids``
{"folder": path, "file": name of a PNG in it, "id": number}, the panoptic form.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import product
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from synth.rle import Runs, Window
from synth.scene import OutlineError
from synth.sources.annotation import Outline, is_number
from synth.sources.pictures import locate

_FINER = 4  # sub-pixels per pixel and axis: Pillow fills whole pixels that an edge touches, which fattens a shape
_PART = 2**20  # pixels drawn together: a shape as large as a large photograph, drawn finer, would fill memory
_LARGEST = 178_956_970  # pixels: Pillow opens no larger picture, and its masks would take for ever


def runs_of(outline: Outline, width: int, height: int, fractions: bool) -> Runs:
    """Return the mask of an outline in a picture of that size; raises ``OutlineError`` when it cannot be drawn.

    Beside what the outline itself takes and a painted picture of ids, this needs no memory that grows with the picture.
    """
    (form, value), *_ = outline.items()
    if width * height > _LARGEST:
        raise OutlineError(f"a picture of {width} x {height} pixels")
    try:
        return _FORMS[form](value, width, height, fractions)
    except Exception as problem:  # foreign outlines and PNGs: SyntaxError, DecompressionBombError, MemoryError and more
        raise OutlineError(f"{form}: {problem!r}") from problem


def mask_of(outline: Outline, width: int, height: int, fractions: bool) -> np.ndarray | None:
    """Return the boolean (height, width) mask of an outline, or None when it cannot be drawn."""
    try:
        return runs_of(outline, width, height, fractions).pixels()
    except OutlineError:
        return None


def extent(polygons: list) -> list[float] | None:
    """Return the xyxy box around polygons, or None when they are none."""
    flat = [value for polygon in polygons if isinstance(polygon, list) for value in polygon]
    if len(flat) < 4 or len(flat) % 2 or not all(map(is_number, flat)):
        return None
    return [min(flat[::2]), min(flat[1::2]), max(flat[::2]), max(flat[1::2])]


def _polygons(polygons: list, width: int, height: int, fractions: bool) -> Runs:
    scale = (width, height) if fractions else (1, 1)
    shapes = [np.asarray(polygon, float).reshape(-1, 2) * scale for polygon in polygons if len(polygon) >= 6]
    corners = np.concatenate(shapes)
    if not np.isfinite(corners).all():
        raise ValueError("a corner that is no number")
    left, top = np.clip(np.floor(corners.min(0)), 0, (width, height)).astype(int).tolist()
    right, bottom = np.clip(np.ceil(corners.max(0)), 0, (width, height)).astype(int).tolist()
    fine = [np.trunc((shape - (left, top)) * _FINER - 0.5) for shape in shapes]

    def drawn(x1: int, y1: int, x2: int, y2: int) -> np.ndarray:
        canvas = Image.new("L", ((x2 - x1) * _FINER, (y2 - y1) * _FINER))
        for shape in fine:
            moved = shape - ((x1 - left) * _FINER, (y1 - top) * _FINER)
            ImageDraw.Draw(canvas).polygon([tuple(p) for p in moved.tolist()], fill=1)
        rows = sum(np.asarray(canvas)[k::_FINER] for k in range(_FINER))  # whole rows: ten times quicker than blocks
        return sum(rows[:, k::_FINER] for k in range(_FINER)) * 2 > _FINER**2

    mask = Runs.of_windows(_in_parts((left, top, right, bottom), drawn), width, height)
    return _with_tips(mask, corners, (left, top, right, bottom))


def _with_tips(mask: Runs, corners: np.ndarray, box: tuple[int, int, int, int]) -> Runs:
    """The mask, with the pixels of the outline's utmost corners where it falls short of them.

    A tail or a blade ends in a tip of which no pixel is covered by half; a mask without it would not fill its box.
    """
    left, top, right, bottom = box
    if left >= right or top >= bottom:  # beyond the picture's edge
        return mask
    short = [abs(a - b) > 1 for a, b in zip(mask.extent or (right, bottom, left, top), box, strict=True)]
    utmost = np.concatenate([corners.argmin(0), corners.argmax(0)])
    tips = np.floor(corners[utmost[short]])
    inside = ((tips >= (left, top)) & (tips <= (right, bottom))).all(1)
    pixels = np.minimum(tips[inside], (right - 1, bottom - 1)).astype(np.int64)
    return mask.with_pixels(pixels) if len(pixels) else mask


def _in_parts(box: tuple[int, int, int, int], drawn: Callable[..., np.ndarray]) -> Iterator[Window]:
    """Windows that fill the box, ``drawn(x1, y1, x2, y2)``, down its columns, none larger than memory should hold."""
    left, top, right, bottom = box
    down = max(1, min(bottom - top, _PART))
    across = _PART // down  # a single column where one does not do
    for x, y in product(range(left, right, across), range(top, bottom, down)):
        yield x, y, drawn(x, y, min(x + across, right), min(y + down, bottom))


def _ellipse(ellipse: list, width: int, height: int, fractions: bool) -> Runs:
    cx, cy, rx, ry = (float(value) for value in ellipse)
    left, right = (min(max(int(value), 0), width) for value in (cx - abs(rx), cx + abs(rx) + 1))
    top, bottom = (min(max(int(value), 0), height) for value in (cy - abs(ry), cy + abs(ry) + 1))

    def drawn(x1: int, y1: int, x2: int, y2: int) -> np.ndarray:
        x, y = np.arange(x1, x2)[None] + 0.5, np.arange(y1, y2)[:, None] + 0.5
        return ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 <= 1

    return Runs.of_windows(_in_parts((left, top, right, bottom), drawn), width, height)


def _rle(rle: dict, width: int, height: int, fractions: bool) -> Runs:
    if list(rle["size"]) != [height, width]:
        raise ValueError("run lengths of another picture")
    return Runs.read(rle)


def _ids(ids: dict, width: int, height: int, fractions: bool) -> Runs:
    painted = _painted(locate(Path(ids["folder"]), ids["file"]))
    if painted.shape != (height, width):
        raise ValueError("painted picture of another size")
    return Runs.of(painted == ids["id"])


@lru_cache(maxsize=1)
def _painted(path: Path) -> np.ndarray:
    """Return the (height, width) ids of a panoptic PNG: R + 256 G + 65536 B."""
    with Image.open(path, formats=("PNG",)) as image:
        colours = np.asarray(image.convert("RGB"), np.int32)
    return colours[..., 0] + 256 * colours[..., 1] + 65536 * colours[..., 2]


def _patch(patch: dict, width: int, height: int, fractions: bool) -> Runs:
    left, top, across, down = (int(value) for value in patch["box"])
    runs = np.asarray(patch["counts"], np.int64)
    if (
        (runs < 0).any()
        or runs.sum() != across * down
        or not 0 <= left <= width - across
        or not 0 <= top <= height - down
    ):
        raise ValueError("run lengths of another picture")
    window = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(down, across)
    return Runs.of_windows([(left, top, window)], width, height)


_FORMS: dict[str, Callable] = {
    "polygons": _polygons, "rle": _rle, "ellipse": _ellipse, "patch": _patch, "ids": _ids,
}  # fmt: skip
