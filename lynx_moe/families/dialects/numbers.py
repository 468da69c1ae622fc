"""What dialects share that write a place as decimal numbers: rounding, ranges, order, and counting what is wrong."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence

from lynx_moe.families.dialects.base import Dialect, Parsed
from lynx_moe.families.dialects.geometry import Size
from lynx_moe.grounding import Box

INTEGER = re.compile(r"-?[0-9]{1,9}")
DECIMAL = re.compile(r"-?[0-9]{1,9}(?:\.[0-9]{1,9})?")

# Four numbers that somebody meant as a box: [1, 2, 3, 4] or (1,2),(3,4). Bounded, so that searching stays linear.
_NUMBER = r"\s?-?[0-9.]{1,12}\s?"
BARE = re.compile(rf"[\[(]{_NUMBER},{_NUMBER}(?:,|\),\s?\(){_NUMBER},{_NUMBER}[\])]")


class NumberDialect(Dialect):
    """Whole multiples of `1 / steps` of the frame's sides.

    Attributes:
        steps: the number that means the far edge of the frame, in units of the last digit.
        decimals: digits after the point; `steps` is then a power of ten and the far edge is written 1.
        half_open: the far edge has no number: the largest is one less than `steps`.
        rows_first: y comes before x.
    """

    steps: int
    decimals: int = 0
    half_open: bool = False
    rows_first: bool = False

    def steps_of(self, size: Size) -> tuple[int, int]:
        """The numbers that mean the far edges of the frame, along x and along y."""
        return self.steps, self.steps

    def nearest(self, multiple: float) -> int:
        """The whole multiple of a step that is written for a fractional one."""
        if not self.decimals:
            return round(multiple)
        # Digits are rounded as printing does, so that half a step goes where the family's own code sends it.
        return round(round(multiple / 10**self.decimals, self.decimals) * 10**self.decimals)

    def box_numbers(self, box: Iterable[float], size: Size) -> list[str]:
        """The four numbers of what can be seen of `box`, in the order of the spelling; never an empty box.

        Raises:
            DialectError: nothing of the box is visible, or it is not a box.
        """
        seen = self.seen(box, size)
        left, top, width, height = self.frame(size)
        x_steps, y_steps = self.steps_of(size)
        x1, x2 = ((x - left) / width * x_steps for x in (seen.x1, seen.x2))
        y1, y2 = ((y - top) / height * y_steps for y in (seen.y1, seen.y2))
        x1, x2 = snap(x1, x2, x_steps - self.half_open, self.nearest)
        y1, y2 = snap(y1, y2, y_steps - self.half_open, self.nearest)
        return self._spelled((y1, x1, y2, x2) if self.rows_first else (x1, y1, x2, y2))

    def point_numbers(self, point: Iterable[float], size: Size) -> list[str]:
        """The two numbers of `point`, in the order of the spelling.

        Raises:
            DialectError: it cannot be seen, or is not a point.
        """
        return self.corner_numbers(self.seen_point(point, size), size)

    def corner_numbers(self, place: tuple[float, float], size: Size) -> list[str]:
        """The two numbers of a place that is known to be seen."""
        left, top, width, height = self.frame(size)
        x_steps, y_steps = self.steps_of(size)
        x = min(max(self.nearest((place[0] - left) / width * x_steps), 0), x_steps - self.half_open)
        y = min(max(self.nearest((place[1] - top) / height * y_steps), 0), y_steps - self.half_open)
        return self._spelled((y, x) if self.rows_first else (x, y))

    def take_box(
        self, parsed: Parsed, parts: Sequence[str], size: Size, span: tuple[int, int], label: str = ""
    ) -> None:
        """Add the box that four texts of numbers mean to `parsed`, or count why they mean none."""
        places = self._places(parsed, parts, 4, size)
        if places is None:
            return
        (x1, y1), (x2, y2) = places
        if x2 <= x1 or y2 <= y1:
            parsed.errors["inverted"] += 1
            return
        box = Box(x1, y1, x2, y2, label).clip(size)
        if box.area == 0:  # wholly in the padding, where there is no picture
            parsed.errors["out_of_range"] += 1
            return
        parsed.boxes.append(box)
        parsed.spans.append(span)

    def take_point(self, parsed: Parsed, parts: Sequence[str], size: Size) -> None:
        """Add the point that two texts of numbers mean to `parsed`, or count why they mean none."""
        places = self._places(parsed, parts, 2, size)
        if places is None:
            return
        ((x, y),) = places
        if not (0 <= x <= size[0] and 0 <= y <= size[1]):  # in the padding
            parsed.errors["out_of_range"] += 1
            return
        parsed.points.append((x, y))

    def _places(self, parsed: Parsed, parts: Sequence[str], count: int, size: Size) -> list[tuple[float, float]] | None:
        """Original pixels of the pairs of numbers in `parts`; None, and an error counted, when they are none."""
        number = DECIMAL if self.decimals else INTEGER
        parts = [part.strip(" ") for part in parts]
        if len(parts) != count or not all(map(number.fullmatch, parts)):
            parsed.errors["unparseable"] += 1
            return None
        left, top, width, height = self.frame(size)
        x_steps, y_steps = self.steps_of(size)
        unit = 10**self.decimals
        places = []
        for first, second in zip(parts[::2], parts[1::2], strict=True):
            x, y = (float(second), float(first)) if self.rows_first else (float(first), float(second))
            if not (0 <= x <= (x_steps - self.half_open) / unit and 0 <= y <= (y_steps - self.half_open) / unit):
                parsed.errors["out_of_range"] += 1
                return None
            places.append((left + x * unit / x_steps * width, top + y * unit / y_steps * height))
        return places

    def _spelled(self, multiples: Iterable[int]) -> list[str]:
        return [f"{multiple / 10**self.decimals:.{self.decimals}f}" for multiple in multiples]


class FloorDialect(NumberDialect):
    """Numbers that are cut off and not rounded, as `int(..)` does."""

    def nearest(self, multiple: float) -> int:
        # The hair makes what was read back and written again the same: 0.57 * 1000 is 569.9999999999999.
        return math.floor(multiple + 1e-6)


def snap(low: float, high: float, last: int, nearest: Callable[[float], int] = round) -> tuple[int, int]:
    """The nearest whole numbers in 0..last, but never equal: a thin box keeps the width of one step."""
    start, end = (min(max(nearest(value), 0), last) for value in (low, high))
    if start == end:
        if start == last or (start > 0 and (low + high) / 2 < start):
            start -= 1
        else:
            end += 1
    return start, end


def bare_boxes(text: str, spans: Iterable[tuple[int, int]]) -> int:
    """How many boxes stand in `text` outside of `spans` without the words or marks that a dialect puts around them.

    >>> bare_boxes("<box>(1,2),(3,4)</box> and (5,6),(7,8)", [(0, 22)])
    1
    """
    found, start = 0, 0
    for first, end in (*spans, (len(text), len(text))):
        found += sum(1 for _ in BARE.finditer(text[start:first]))
        start = end
    return found
