"""What the dialects share that write places with tokens of their own."""

from __future__ import annotations

from collections.abc import Iterable

from lynx_moe.errors import DialectError
from lynx_moe.families.dialects.base import Dialect, Parsed
from lynx_moe.families.dialects.geometry import Size
from lynx_moe.grounding import Box

Corners = tuple[float, float, float, float]


def share_of(dialect: Dialect, point: tuple[float, float], size: Size) -> tuple[float, float]:
    """A point in pixels of the picture as fractions of the dialect's frame."""
    left, top, width, height = dialect.frame(size)
    return (point[0] - left) / width, (point[1] - top) / height


def shares_of(dialect: Dialect, box: Iterable[float], size: Size) -> Corners:
    """The visible part of a box as fractions x1, y1, x2, y2 of the dialect's frame.

    Raises:
        DialectError: there is none, or the numbers are not a box.
    """
    seen = dialect.seen(box, size)
    return *share_of(dialect, (seen.x1, seen.y1), size), *share_of(dialect, (seen.x2, seen.y2), size)


def in_pixels(dialect: Dialect, point: tuple[float, float], size: Size) -> tuple[float, float]:
    """A point, given in fractions of the dialect's frame, in pixels of the picture."""
    left, top, width, height = dialect.frame(size)
    return left + point[0] * width, top + point[1] * height


def add_box(parsed: Parsed, dialect: Dialect, shares: Corners, size: Size, label: str, span: tuple[int, int]) -> bool:
    """Puts a box, given in fractions of the dialect's frame, into `parsed`, or counts why it is none.

    Returns:
        Whether it is one.
    """
    if shares[2] <= shares[0] or shares[3] <= shares[1]:
        parsed.errors["inverted"] += 1
        return False
    corners = (*in_pixels(dialect, shares[:2], size), *in_pixels(dialect, shares[2:], size))
    box = Box(*corners, label).clip(size)
    if box.area == 0:  # wholly in the padding, where there is no picture
        parsed.errors["out_of_range"] += 1
        return False
    parsed.boxes.append(box)
    parsed.spans.append(span)
    return True


def written_label(box: object, forbidden: str, dialect: Dialect) -> str:
    """The label of `box` on one line, "" if it has none.

    Raises:
        DialectError: it holds characters that mean something in the spelling.
    """
    label = " ".join(getattr(box, "label", "").split())
    if any(char in forbidden for char in label):
        raise DialectError(
            f"the label {label!r} cannot be written in the dialect {dialect.name!r}",
            why=f"none of {' '.join(forbidden)} can stand in a label there",
            fix="reword the label",
        )
    return label
