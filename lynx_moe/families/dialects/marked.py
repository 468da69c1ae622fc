"""Dialects that put marks around a name and around the numbers: `<ref>the cat</ref><box>(1,2),(3,4)</box>`.

The marks are special tokens of the family's tokenizer, so they cannot occur in ordinary text; a label loses its angle
brackets instead of breaking the spelling.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from lynx_moe.errors import DialectError
from lynx_moe.families.dialects.base import Parsed
from lynx_moe.families.dialects.geometry import Size
from lynx_moe.families.dialects.grammar import Grammar, derive
from lynx_moe.families.dialects.numbers import NumberDialect, bare_boxes
from lynx_moe.families.dialects.outlined import seen_corners, seen_pixels
from lynx_moe.grounding import Box, Mask
from lynx_moe.grounding.outlines import quadrilaterals

PAIRS = re.compile(r"\s*\(([^(),]*),([^(),]*)\)\s*(?:,\s*\(([^(),]*),([^(),]*)\)\s*)?")
QUAD = re.compile(r"\s*" + r",\s*".join([r"\(([^(),]*),([^(),]*)\)\s*"] * 4))
LISTS = re.compile(r"\s*\[\s*\[")
LIST = re.compile(r"\[([^\[\]]*)\]")
NUMBERS = re.compile(r"-?[0-9]+")
LOOSE = re.compile(r"[\s0-9,()\[\]-]*")
# What may stand between a name and its box, or between two boxes of one name.
JOINS = " \n,[]"

Marks = tuple[str, str]


class MarkedDialect(NumberDialect):
    """Marks around numbers, after an optional label in marks of its own.

    A label belongs to the box after it and to further ones that follow with nothing but commas or brackets between.

    Attributes:
        label_marks: around a label; None when the spelling has no place for one.
        box_marks: around a box; of a dialect of lists also around several.
        point_marks: around a point; None takes those of a box.
        quad_marks: around the four corners of an outline; None when there is no such spelling.
        lists: numbers are written `[[x1, y1, x2, y2]]` and not `(x1,y1),(x2,y2)`.
        comma: what is written between two numbers of a list.
        any_answer: the marks of a box also stand around answers that are no place.
    """

    label_marks: Marks | None = None
    box_marks: Marks
    point_marks: Marks | None = None
    quad_marks: Marks | None = None
    lists: bool = False
    comma: str = ", "
    any_answer: bool = False

    def __init_subclass__(cls, **kwargs: object):
        super().__init_subclass__(**kwargs)
        named = {"label": cls.label_marks, "box": cls.box_marks, "point": cls.point_marks, "quad": cls.quad_marks}
        present = {name: tuple(map(re.escape, marks)) for name, marks in named.items() if marks}
        # What is between marks never holds an angle bracket, so scanning stops at the next one: linear for any text.
        cls._token = re.compile("|".join(f"{a}(?P<{name}>[^<>]*)({b})?" for name, (a, b) in present.items()))
        cls.writes_outlines = cls.quad_marks is not None
        cls.marks = tuple(mark for marks in named.values() if marks for mark in marks)

    def encode(self, box: Iterable[float], size: Size) -> str:
        numbers = self.box_numbers(box, size)
        label = clean(box.label) if isinstance(box, Box) and self.label_marks else ""
        return (label.join(self.label_marks) if label else "") + self._written(numbers).join(self.box_marks)

    def encode_point(self, point: Iterable[float], size: Size) -> str:
        return self._written(self.point_numbers(point, size)).join(self.point_marks or self.box_marks)

    def encode_polygon(self, polygon: Sequence[Iterable[float]], size: Size) -> str:
        if self.quad_marks is None:
            return super().encode_polygon(polygon, size)
        corners = [self.seen_point(corner, size) for corner in polygon]
        if len(corners) != 4:
            raise DialectError(
                f"the dialect {self.name!r} writes no outline of {len(corners)} corners",
                why="its models were taught quadrilaterals only",
                fix="give four corners",
            )
        numbers = [number for corner in corners for number in self.corner_numbers(corner, size)]
        return self._written(numbers).join(self.quad_marks)

    def _outlined(self, mask: Mask, size: Size) -> str:
        """One outline of four corners for each part: that is all that these models were taught."""
        if not self.writes_outlines:
            return super()._outlined(mask, size)
        found = quadrilaterals(seen_pixels(self, mask, size))
        return "".join(self.encode_polygon(seen_corners(self, outline, size), size) for outline in found)

    def _read(self, text: str, size: Size) -> Parsed:
        parsed = Parsed()
        label, label_end, spans, quad_end = "", 0, [], -1
        for token in self._token.finditer(text):
            spans.append(token.span())
            start, end = token.span()
            kind, body = next((kind, body) for kind, body in token.groupdict().items() if body is not None)
            closed = token[token.re.groupindex[kind] + 1] is not None
            if kind == "label":
                label, label_end = body.strip() if closed else "", end
                continue
            if text[label_end:start].strip(JOINS):
                label = ""
            label_end = end
            if kind == "quad":
                # Outlines with nothing between them are parts of one mask, as they are written.
                self._read_quad(parsed, body, closed, size, joins=start == quad_end)
                quad_end = end
            elif self.lists:
                self._read_lists(parsed, body, closed, size, token.span(), label)
            else:
                self._read_pairs(parsed, body, closed, size, token.span(), label, kind == "point")
        parsed.errors["unparseable"] += bare_boxes(text, spans)
        parsed.errors = +parsed.errors
        return parsed

    def _grammar(self, size: Size) -> Grammar:
        return derive(
            self, size, between="], [" if self.lists and self.comma == ", " else "],[" if self.lists else None
        )

    def _written(self, numbers: Sequence[str]) -> str:
        if self.lists:
            return f"[[{self.comma.join(numbers)}]]"
        return ",".join(f"({x},{y})" for x, y in zip(numbers[::2], numbers[1::2], strict=True))

    def _read_pairs(
        self, parsed: Parsed, body: str, closed: bool, size: Size, span: tuple[int, int], label: str, point: bool
    ) -> None:
        pairs = PAIRS.fullmatch(body) if closed else None
        if pairs is None or (point and pairs[3] is not None) or (self.point_marks and not point and pairs[3] is None):
            parsed.errors["unparseable"] += 1
        elif pairs[3] is None:
            self.take_point(parsed, pairs.groups()[:2], size)
        else:
            self.take_box(parsed, pairs.groups(), size, span, label)

    def _read_lists(
        self, parsed: Parsed, body: str, closed: bool, size: Size, span: tuple[int, int], label: str
    ) -> None:
        if not LISTS.match(body):
            self._read_loose(parsed, body, closed, size, span)
            return
        for group in LIST.finditer(body):
            parts = group[1].split(",", 4)
            if len(parts) == 2:
                self.take_point(parsed, parts, size)
            else:
                self.take_box(parsed, parts, size, span, label)
        rest = re.sub(r"[\s,]", "", LIST.sub("", body))
        if rest != "[]" or not closed:  # whole boxes count, but what is cut off or beside them is told
            parsed.errors["unparseable"] += 1

    def _read_loose(self, parsed: Parsed, body: str, closed: bool, size: Size, span: tuple[int, int]) -> None:
        """What has no double brackets: numbers in other ones where the marks are around any answer, else an error."""
        numbers = NUMBERS.findall(body) if self.any_answer and closed else []
        if numbers and LOOSE.fullmatch(body) and len(numbers) % 4 == 0:
            for k in range(0, len(numbers), 4):
                self.take_box(parsed, numbers[k : k + 4], size, span)
        elif not self.any_answer or (LOOSE.fullmatch(body) and len(numbers) != 1):
            parsed.errors["unparseable"] += 1

    def _read_quad(self, parsed: Parsed, body: str, closed: bool, size: Size, joins: bool) -> None:
        quad = QUAD.fullmatch(body) if closed else None
        read = Parsed()
        for x, y in zip(quad.groups()[::2], quad.groups()[1::2], strict=True) if quad else ():
            self.take_point(read, (x, y), size)
        if len(read.points) == 4:
            last = parsed.polygon_masks[-1] if parsed.polygon_masks else -1
            parsed.polygon_masks.append(last if joins and last >= 0 else last + 1)
            parsed.polygons.append(read.points)
        else:
            parsed.errors[next(iter(read.errors), "unparseable")] += 1


def clean(label: str) -> str:
    """A label without what would read as a mark, in one line.

    >>> clean("a <b>cat</b>")
    'a b cat /b'
    """
    return " ".join(re.sub("[<>]", " ", label).split())
