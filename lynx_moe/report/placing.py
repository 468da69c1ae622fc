"""Labels beside marks, none on another: each takes the nearest free place, with a thin line where it is not near."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

SIZE = 9  # points


class Mark(NamedTuple):
    """A mark and the ends of the bar through it, in the data's units, and half its size, in points."""

    x: float
    y: float
    left: float
    right: float
    half: float


def offsets() -> Iterator[tuple[float, float]]:
    """Places for a label's near edge, in points from its mark, the best first."""
    for far in (11, 17, 24, 34, 50, 70, 95):
        for right, up in ((1, 0.9), (1, -0.9), (-1, 0.9), (-1, -0.9), (0, 1.1), (0, -1.1)):
            yield right * far, up * far


def place_labels(axes, named: Sequence[tuple[float, float, str]], marks: Sequence[Mark]) -> None:
    """Writes each (x, y, text) of `named`, in the data's units, clear of the others and of all `marks`.

    The axes must have been drawn once, so that their limits and size stand. Where no place is free the text is
    written anyway, at the last one.
    """
    figure = axes.figure
    renderer = figure.canvas.get_renderer()
    to_pixel = figure.dpi / 72
    inside = axes.get_window_extent(renderer)
    taken = []
    for mark in marks:
        ends = [(mark.x, mark.y), (mark.left, mark.y), (mark.right, mark.y)]
        (at_x, at_y), (bar_left, _), (bar_right, _) = axes.transData.transform(ends)
        half = mark.half * to_pixel
        taken.append((at_x - half, at_y - half, at_x + half, at_y + half))
        taken.append((bar_left, at_y - to_pixel, bar_right, at_y + to_pixel))
    for x, y, text in sorted(named, key=lambda each: -each[1]):
        made = axes.annotate(
            text, (x, y), xytext=(0, 0), textcoords="offset points", fontsize=SIZE, parse_math=False, zorder=5
        )
        extent = made.get_window_extent(renderer)
        wide, high = extent.width / to_pixel, extent.height / to_pixel
        at_x, at_y = (value / to_pixel for value in axes.transData.transform((x, y)))
        for right, up in offsets():
            left = at_x + right - (0 if right > 0 else wide if right < 0 else wide / 2)
            low = at_y + up - (high / 2 if right else 0 if up > 0 else high)
            box = tuple(to_pixel * value for value in (left - 3, low, left + wide + 3, low + high))
            within = box[0] >= inside.x0 and box[2] <= inside.x1 and box[1] >= inside.y0 and box[3] <= inside.y1
            if within and not any(overlap(box, other) for other in taken):
                break
        made.set_position((left - at_x, low - at_y))
        taken.append(box)
        if abs(right) > 25 or abs(up) > 25:
            line_to = (left - at_x + (wide if right < 0 else 0 if right > 0 else wide / 2), low - at_y + high / 2)
            axes.annotate("", (x, y), xytext=line_to, textcoords="offset points", zorder=2,
                          arrowprops={"arrowstyle": "-", "color": "#999999", "linewidth": 0.7})  # fmt: skip


def overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
