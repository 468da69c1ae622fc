"""Kosmos-2's boxes: the first and last cell of a 32 x 32 grid,
`<phrase>a cat</phrase><object><patch_index_0044><patch_index_0863></object>`.

Source: transformers, `models/kosmos2/processing_kosmos2.py` (`coordinate_to_patch_index`, `patch_index_to_coordinate`,
`extract_entities_with_patch_indices`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from lynx_moe.families.dialects.base import DIALECTS, Dialect, Parsed
from lynx_moe.families.dialects.geometry import Size
from lynx_moe.families.dialects.grammar import Again, Grammar, Number
from lynx_moe.families.dialects.location import Corners, add_box, in_pixels, share_of, shares_of, written_label

SIDE = 32
BETWEEN = "</delimiter_of_multi_objects/>"
PAIR = re.compile(r"<patch_index_([0-9]{4})><patch_index_([0-9]{4})>")
# What is between the marks cannot hold a mark, so scanning stops at the next one: linear for any text.
OBJECT = re.compile(rf"(?:<phrase>([^<]+)</phrase>)?<object>((?:{PAIR.pattern}{BETWEEN})*{PAIR.pattern})</object>")
LOOSE = re.compile(r"<object>|<patch_index_")
ALONE = re.compile(r"(?<!>)<patch_index_([0-9]{4})>(?!<)")
LAST = SIDE * SIDE - 1
SLACK = 1e-9  # of a cell: corners on the grid stay on it whatever the division rounded


@DIALECTS.register("kosmos2")
class Kosmos2Dialect(Dialect):
    """Cells of what the model sees, numbered row by row.

    Upper left corners are rounded down and lower right ones up to whole cells. Read are the centres of both cells,
    or, of a box of one cell, one row or one column, their outer corners: the family's own rules.

    >>> Kosmos2Dialect().encode((0, 25, 100, 50), (100, 100))
    '<object><patch_index_0256><patch_index_0511></object>'
    """

    name = "kosmos2"
    families = ("kosmos-2",)
    marks = ("<object>", "</object>", "<phrase>", "</phrase>", re.compile(rf"<patch_index_[0-9]{{4}}>|{BETWEEN}"))
    quantum = 1 / SIDE
    coordinates = PAIR

    def encode(self, box: Iterable[float], size: Size) -> str:
        label = written_label(box, "<>", self)
        first, last = _cells(shares_of(self, box, size))
        phrase = f"<phrase>{label}</phrase>" if label else ""
        return f"{phrase}<object><patch_index_{first:04}><patch_index_{last:04}></object>"

    def encode_point(self, point: Iterable[float], size: Size) -> str:
        """The cell that it lies in, by itself. The family was not taught points; this is our choice."""
        x, y = (min(math.floor(share * SIDE), SIDE - 1) for share in share_of(self, self.seen_point(point, size), size))
        return f"<patch_index_{y * SIDE + x:04}>"

    def _read(self, text: str, size: Size) -> Parsed:
        parsed = Parsed()
        rest = OBJECT.sub(" ", text)
        points = [int(found[1]) for found in ALONE.finditer(rest)]
        broken = len(LOOSE.findall(rest)) - len(points)
        for cell in points:
            row, column = _place(cell)
            if cell > LAST:
                parsed.errors["out_of_range"] += 1
            else:
                parsed.points.append(in_pixels(self, ((column + 0.5) / SIDE, (row + 0.5) / SIDE), size))
        for found in OBJECT.finditer(text):
            pairs = list(PAIR.finditer(text, *found.span(2)))
            for pair in pairs:
                first, last = int(pair[1]), int(pair[2])
                if max(first, last) > LAST:
                    parsed.errors["out_of_range"] += 1
                    continue
                # Of several boxes of one phrase each has its own two tokens, one alone has its marks too.
                span = pair.span() if len(pairs) > 1 else (found.start(2) - len("<object>"), found.end())
                add_box(parsed, self, _corners(first, last), size, (found[1] or "").strip(), span)
        if broken:
            parsed.errors["unparseable"] += broken
        return parsed

    def _grammar(self, size: Size) -> Grammar:
        first, last = _cells(shares_of(self, (0, 0, *size), size))
        pair = "<patch_index_", Cell(first, last, 4), "><patch_index_", Cell(first, last, 4, after=0)
        return Grammar("<object>", ((*pair, "></object>"), (*pair, f">{BETWEEN}", Again())))


@dataclass(frozen=True, slots=True)
class Cell(Number):
    """A cell of the part of the grid between two others; one `after` another is not left of it, or above."""

    def fits(self, value: int, earlier: tuple[int, ...]) -> bool:
        upper = self.low if self.after is None else earlier[self.after]
        return all(a <= b <= c for a, b, c in zip(_place(upper), _place(value), _place(self.high), strict=True))


def _place(cell: int) -> tuple[int, int]:
    """(row, column) of a cell."""
    return divmod(cell, SIDE)


def _cells(shares: Corners) -> tuple[int, int]:
    """The first and the last cell of a box."""
    left, top = (min(math.floor(share * SIDE + SLACK), SIDE - 1) for share in shares[:2])
    right = max(math.ceil(shares[2] * SIDE - 1 - SLACK), left)
    low = max(math.ceil(shares[3] * SIDE - 1 - SLACK), top)
    return top * SIDE + left, low * SIDE + right


def _corners(first: int, last: int) -> Corners:
    (top, left), (low, right) = _place(first), _place(last)
    if right < left or low < top:  # not in order, and stays so
        return left / SIDE, top / SIDE, right / SIDE, low / SIDE
    inset = 0.0 if top == low or left == right else 0.5
    return (left + inset) / SIDE, (top + inset) / SIDE, (right + 1 - inset) / SIDE, (low + 1 - inset) / SIDE
