"""What dialects share that write masks as outlines: what the model sees of a mask, and of an outline."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lynx_moe.errors import DialectError, RecordError
from lynx_moe.families.dialects.geometry import Size
from lynx_moe.grounding import Mask
from lynx_moe.grounding.outlines import Outline

if TYPE_CHECKING:
    from lynx_moe.families.dialects.base import Dialect


def refuse_no_mask(mask: Mask, size: Size) -> None:
    """Nothing for a mask of a picture of `size` (width, height).

    Raises:
        DialectError: it is of a picture of another size, or cannot be decoded.
    """
    if mask.size != tuple(size):
        raise DialectError(
            f"a mask of a {mask.size[0]}x{mask.size[1]} picture cannot be written on one of {size[0]}x{size[1]}",
            why="it counts the pixels of its own picture",
            fix="make the data again",
        )
    try:
        mask.runs()
    except RecordError as error:
        raise DialectError(error.message, why=error.why, fix=error.fix) from None


def seen_pixels(dialect: Dialect, mask: Mask, size: Size) -> np.ndarray:
    """(H, W) bool: the pixels of a mask whose middles the model sees.

    Raises:
        DialectError: there is none, or the mask is of a picture of another size, or cannot be decoded.
    """
    refuse_no_mask(mask, size)
    mask_HW = mask.array()
    window = dialect.seen((0, 0, *size), size)
    x_W, y_H = np.arange(size[0]) + 0.5, np.arange(size[1]) + 0.5
    in_rows = (window.y1 <= y_H) & (y_H <= window.y2)
    seen_HW = mask_HW & in_rows[:, None] & (window.x1 <= x_W) & (x_W <= window.x2)
    if not seen_HW.any():
        raise DialectError(
            "a mask without a visible pixel has no outline",
            why="it is empty, or the processor crops its pixels away",
            fix="leave the record out, use a processor that pads, or a mask head: its word stands for any mask",
        )
    return seen_HW


def seen_corners(dialect: Dialect, outline: Outline, size: Size) -> Outline:
    """The corners of an outline, none beyond what the model sees: pixels at the edge may reach over it."""
    window = dialect.seen((0, 0, *size), size)
    return [(min(max(x, window.x1), window.x2), min(max(y, window.y1), window.y2)) for x, y in outline]
