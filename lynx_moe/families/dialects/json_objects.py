"""Dialects that write a place as a small JSON object: `{"bbox_2d": [1, 2, 3, 4], "label": "cat"}`.

An answer is not parsed as a whole: it may be cut off, and its whole boxes count all the same. Each object is found by
its braces and read by itself; braces inside of a label are written as JSON escapes, so that no object holds one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

from lynx_moe.families.dialects.base import Parsed
from lynx_moe.families.dialects.geometry import Size
from lynx_moe.families.dialects.numbers import NumberDialect, bare_boxes
from lynx_moe.grounding import Box

# No braces inside, so scanning stops at the next one: linear for any text.
OBJECT = re.compile(r"\{([^{}]*)(\}?)")
LONGEST = 4096  # characters of an object that is still read


class _Number(str):
    """Digits as the text has them; a quoted "12" is none."""

    __slots__ = ()


class JsonDialect(NumberDialect):
    """One object per place; other fields than the place and its label are passed over.

    Attributes:
        box_key: the field of a box, four numbers.
        point_key: the field of a point, two numbers.
    """

    box_key: str = "bbox_2d"
    point_key: str = "point_2d"

    def encode(self, box: Iterable[float], size: Size) -> str:
        numbers = self.box_numbers(box, size)
        label = box.label if isinstance(box, Box) else ""
        return _object(self.box_key, numbers, label)

    def encode_point(self, point: Iterable[float], size: Size) -> str:
        return _object(self.point_key, self.point_numbers(point, size), "")

    def _read(self, text: str, size: Size) -> Parsed:
        parsed = Parsed()
        spans = []
        keys = (self.box_key, self.point_key)
        for found in OBJECT.finditer(text):
            inner, closed = found[1], bool(found[2])
            if not any(f'"{key}"' in inner for key in keys):
                beginning = inner.strip()
                if not closed and found.end() == len(text) and beginning:  # perhaps cut off inside of the key
                    parsed.errors["unparseable"] += any(f'"{key}"'.startswith(beginning) for key in keys)
                continue
            spans.append(found.span())
            fields = _fields(found[0]) if closed and len(inner) <= LONGEST else None
            places = [(key, value) for key, value in fields or () if key in keys]
            if not places or len(dict(places)) < len(places):  # two boxes in one object: which is meant?
                parsed.errors["unparseable"] += 1
                continue
            label = dict(fields).get("label", "")
            for key, value in places:
                numbers = value if isinstance(value, list) else ()
                numbers = [n if type(n) is _Number else "" for n in numbers]
                if key == self.box_key:
                    self.take_box(parsed, numbers, size, found.span(), label if type(label) is str else "")
                else:
                    self.take_point(parsed, numbers, size)
        parsed.errors["unparseable"] += bare_boxes(text, spans)
        parsed.errors = +parsed.errors
        return parsed


def _object(key: str, numbers: list[str], label: str) -> str:
    place = f'"{key}": [{", ".join(numbers)}]'
    if label:
        name = json.dumps(label, ensure_ascii=False).replace("{", "\\u007b").replace("}", "\\u007d")
        place += f', "label": {name}'
    return f"{{{place}}}"


def _fields(text: str) -> list[tuple[str, object]] | None:
    """Fields of one JSON object in their order, numbers as their text; None when it is not JSON."""
    try:
        return json.loads(text, object_pairs_hook=list, parse_int=_Number, parse_float=_Number, parse_constant=_Number)
    except (ValueError, RecursionError):
        return None
