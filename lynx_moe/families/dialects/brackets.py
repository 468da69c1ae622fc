"""Dialects that write a box as four numbers in square brackets, `[x1, y1, x2, y2]`, and a point as two, `[x, y]`."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterable

from lynx_moe.families.dialects.base import Dialect, Parsed
from lynx_moe.families.dialects.geometry import Size
from lynx_moe.grounding import Box

# A group never contains a bracket, so scanning stops at the next one: linear for any text.
GROUP = re.compile(r"\[([^\[\]]*)(\]?)")


class BracketDialect(Dialect):
    """Whole multiples of `1 / steps` of the window's side, each written by `spell` and read by `number`."""

    steps: int
    number: re.Pattern[str]

    @abstractmethod
    def spell(self, multiple: int) -> str:
        """The text of one coordinate."""

    @abstractmethod
    def read(self, text: str) -> float:
        """The fraction of the window that one coordinate's text means."""

    def encode(self, box: Iterable[float], size: Size) -> str:
        seen = self.seen(box, size)
        left, top, width, height = self.geometry.window(size)
        x1, x2 = snap((seen.x1 - left) / width * self.steps, (seen.x2 - left) / width * self.steps, self.steps)
        y1, y2 = snap((seen.y1 - top) / height * self.steps, (seen.y2 - top) / height * self.steps, self.steps)
        return f"[{', '.join(self.spell(value) for value in (x1, y1, x2, y2))}]"

    def encode_point(self, point: Iterable[float], size: Size) -> str:
        x, y = self.seen_point(point, size)
        left, top, width, height = self.geometry.window(size)
        multiples = (round((x - left) / width * self.steps), round((y - top) / height * self.steps))
        return f"[{', '.join(self.spell(value) for value in multiples)}]"

    def decode(self, text: str, size: Size) -> Parsed:
        parsed = Parsed()
        left, top, width, height = self.geometry.window(size)
        for group in GROUP.finditer(text):
            parts = [part.strip(" ") for part in group[1].split(",", 4)]
            if not group[2] or len(parts) != 4 or not all(map(self.number.fullmatch, parts)):
                parsed.errors["unparseable"] += 1
                continue
            x1, y1, x2, y2 = map(self.read, parts)
            if not all(0 <= value <= 1 for value in (x1, y1, x2, y2)):
                parsed.errors["out_of_range"] += 1
                continue
            if x2 <= x1 or y2 <= y1:
                parsed.errors["inverted"] += 1
                continue
            box = Box(left + x1 * width, top + y1 * height, left + x2 * width, top + y2 * height).clip(size)
            if box.area == 0:  # wholly in the padding, where there is no picture
                parsed.errors["out_of_range"] += 1
                continue
            parsed.boxes.append(box)
            parsed.spans.append(group.span())
        return parsed


def snap(low: float, high: float, steps: int) -> tuple[int, int]:
    """The nearest whole numbers in 0..steps, but never equal: a thin box keeps the width of one quantum.

    Either number moves by at most one quantum.
    """
    first, last = (min(max(round(value), 0), steps) for value in (low, high))
    if first == last:
        if first == steps or (first > 0 and (low + high) / 2 < first):
            first -= 1
        else:
            last += 1
    return first, last
