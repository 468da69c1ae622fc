"""Dialects that write a box as four numbers in square brackets, `[x1, y1, x2, y2]`, and a point as two, `[x, y]`."""

from __future__ import annotations

import re
from collections.abc import Iterable

from lynx_moe.families.dialects.base import Parsed
from lynx_moe.families.dialects.geometry import Size
from lynx_moe.families.dialects.grammar import Grammar, derive
from lynx_moe.families.dialects.numbers import NumberDialect

# A group never contains a bracket, so scanning stops at the next one: linear for any text.
GROUP = re.compile(r"\[([^\[\]]*)(\]?)")


class BracketDialect(NumberDialect):
    """Four numbers in brackets are a box, two are a point; there is no place for a label.

    Attributes:
        comma: what is written between two numbers; any spaces are read.
        several: what parts the places of one group; None when a group holds one.
    """

    comma: str = ", "
    several: str | None = None

    def encode(self, box: Iterable[float], size: Size) -> str:
        return f"[{self.comma.join(self.box_numbers(box, size))}]"

    def encode_point(self, point: Iterable[float], size: Size) -> str:
        return f"[{self.comma.join(self.point_numbers(point, size))}]"

    def _grammar(self, size: Size) -> Grammar:
        return derive(self, size, between=self.several)

    def _read(self, text: str, size: Size) -> Parsed:
        parsed = Parsed()
        for group in GROUP.finditer(text):
            if not group[2]:
                parsed.errors["unparseable"] += 1
                continue
            for place in group[1].split(self.several) if self.several else (group[1],):
                parts = place.split(",", 4)
                if len(parts) == 2:
                    self.take_point(parsed, parts, size)
                else:
                    self.take_box(parsed, parts, size, group.span())
        return parsed
