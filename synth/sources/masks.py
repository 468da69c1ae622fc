"""Outlines of objects made into masks, when somebody looks: polygons, run lengths of COCO, painted pictures of ids.

An outline is a plain dict with one key: ``polygons`` [[x, y, x, y, ...], ...] in the units of the boxes; ``rle``
{"size": [height, width], "counts": run lengths or COCO's compressed text}; ``ellipse`` [cx, cy, rx, ry]; ``patch``
{"box": [left, top, width, height], "counts": run lengths along its rows}; ``ids``
{"folder": path, "file": name of a PNG in it, "id": number}, the panoptic form.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from synth.sources.annotation import Outline, is_number
from synth.sources.pictures import locate

_FINER = 4  # sub-pixels per pixel and axis: Pillow fills whole pixels that an edge touches, which fattens a shape


def mask_of(outline: Outline, width: int, height: int, fractions: bool) -> np.ndarray | None:
    """Return the boolean (height, width) mask of an outline, or None when it cannot be drawn."""
    (form, value), *_ = outline.items()
    try:
        return _FORMS[form](value, width, height, fractions)
    except Exception:  # foreign outlines and PNGs: SyntaxError, DecompressionBombError, MemoryError and more
        return None  # the box is true all the same; a mask is an extra


def extent(polygons: list) -> list[float] | None:
    """Return the xyxy box around polygons, or None when they are none."""
    flat = [value for polygon in polygons if isinstance(polygon, list) for value in polygon]
    if len(flat) < 4 or len(flat) % 2 or not all(map(is_number, flat)):
        return None
    return [min(flat[::2]), min(flat[1::2]), max(flat[::2]), max(flat[1::2])]


def _polygons(polygons: list, width: int, height: int, fractions: bool) -> np.ndarray:
    scale = (width, height) if fractions else (1, 1)
    shapes = [np.asarray(polygon, float).reshape(-1, 2) * scale for polygon in polygons if len(polygon) >= 6]
    corners = np.concatenate(shapes)
    if not np.isfinite(corners).all():
        raise ValueError("a corner that is no number")
    # Only the part around the shape is drawn: a mask of a large photograph drawn finer as a whole would fill memory.
    left, top = np.clip(np.floor(corners.min(0)), 0, (width, height)).astype(int).tolist()
    right, bottom = np.clip(np.ceil(corners.max(0)), 0, (width, height)).astype(int).tolist()
    mask = np.zeros((height, width), bool)
    if left < right and top < bottom:
        canvas = Image.new("L", ((right - left) * _FINER, (bottom - top) * _FINER))
        for shape in shapes:
            ImageDraw.Draw(canvas).polygon([tuple(p) for p in ((shape - (left, top)) * _FINER - 0.5).tolist()], fill=1)
        fine = np.asarray(canvas).reshape(bottom - top, _FINER, right - left, _FINER)
        mask[top:bottom, left:right] = fine.sum((1, 3), dtype=np.int32) * 2 > _FINER**2
    return mask


def _ellipse(ellipse: list, width: int, height: int, fractions: bool) -> np.ndarray:
    cx, cy, rx, ry = (float(value) for value in ellipse)
    x, y = np.arange(width) + 0.5, np.arange(height) + 0.5
    return ((x[None] - cx) / rx) ** 2 + ((y[:, None] - cy) / ry) ** 2 <= 1


def _rle(rle: dict, width: int, height: int, fractions: bool) -> np.ndarray:
    counts = rle["counts"]
    runs = unpack_counts(counts) if isinstance(counts, str) else counts
    runs = np.asarray(runs, np.int64)
    if list(rle["size"]) != [height, width] or (runs < 0).any() or runs.sum() != width * height:
        raise ValueError("run lengths of another picture")
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T  # COCO runs go down the columns


def unpack_counts(text: str) -> list[int]:
    """Return the run lengths in COCO's compressed text: 6 bits a character, each run minus the one but last.

    Source: rleFrString in maskApi.c of the COCO API.
    """
    runs, at = [], 0
    while at < len(text):
        value = shift = 0
        while True:
            bits = ord(text[at]) - 48
            at += 1
            value |= (bits & 0x1F) << shift
            shift += 5
            if not bits & 0x20:
                break
        if bits & 0x10:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
    return runs


def _ids(ids: dict, width: int, height: int, fractions: bool) -> np.ndarray:
    painted = _painted(locate(Path(ids["folder"]), ids["file"]))
    if painted.shape != (height, width):
        raise ValueError("painted picture of another size")
    return painted == ids["id"]


@lru_cache(maxsize=1)
def _painted(path: Path) -> np.ndarray:
    """Return the (height, width) ids of a panoptic PNG: R + 256 G + 65536 B."""
    with Image.open(path, formats=("PNG",)) as image:
        colours = np.asarray(image.convert("RGB"), np.int32)
    return colours[..., 0] + 256 * colours[..., 1] + 65536 * colours[..., 2]


def _patch(patch: dict, width: int, height: int, fractions: bool) -> np.ndarray:
    left, top, across, down = (int(value) for value in patch["box"])
    runs = np.asarray(patch["counts"], np.int64)
    if (
        (runs < 0).any()
        or runs.sum() != across * down
        or not 0 <= left <= width - across
        or not 0 <= top <= height - down
    ):
        raise ValueError("run lengths of another picture")
    mask = np.zeros((height, width), bool)
    mask[top : top + down, left : left + across] = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(down, across)
    return mask


_FORMS: dict[str, Callable] = {
    "polygons": _polygons, "rle": _rle, "ellipse": _ellipse, "patch": _patch, "ids": _ids,
}  # fmt: skip
