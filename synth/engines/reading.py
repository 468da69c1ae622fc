"""Reading what a model wrote: tolerant of what stands around the content, strict about the content itself."""

from __future__ import annotations

import json
import re

from synth.scene import Box
from synth.sources.annotation import is_number

_OPENS = {"{": "}", "[": "]"}
_NUMBER = r"\s*-?\d{1,5}(?:\.\d{1,4})?\s*"
BOX = re.compile(rf"\[({_NUMBER}),({_NUMBER}),({_NUMBER}),({_NUMBER})\]")
_LINE = re.compile(rf"^[\s\-*\d.)]*(?P<name>[^\[\]:]+?)\s*(?::|\bat\b)?\s*(?P<box>{BOX.pattern})[\s.;,]*$")
_LONGEST_LINE = 200  # characters: names are short, and a model that runs away writes spaces without end
_SCALE = {"percent": 100.0, "permille": 1000.0}


def read_json(text: str) -> object:
    """Return the JSON value in a model's answer, also from a code fence or between words; None if there is none."""
    starts = [at for sign in _OPENS if (at := text.find(sign)) >= 0]
    if not starts:
        return None
    start = min(starts)
    end = text.rfind(_OPENS[text[start]])
    try:
        content = json.loads(text[start : end + 1], parse_constant=lambda name: None)
        json.dumps(content, ensure_ascii=False).encode()  # escapes may spell halves of characters: no table holds them
        return content
    except (ValueError, RecursionError):
        return None


def read_listing(text: str) -> list[tuple[str, object, str]] | None:
    """Return (name, box as written, colour) of every object a model lists, or None when it lists none readably.

    Read are JSON, {"objects": [{"name", "box", "colour"}]} or the bare list, also with the keys "label" and "bbox" or
    "bbox_2d", and lines of text, "man: [0, 13, 29, 100]" or "man at [0, 13, 29, 100]".
    """
    content = read_json(text)
    rows = content.get("objects") if isinstance(content, dict) else content
    if isinstance(rows, list) and all(isinstance(row, dict) for row in rows):
        return [(_text(row, "name", "label"), _first(row, "box", "bbox", "bbox_2d"), _text(row, "colour", "color"))
                for row in rows]  # fmt: skip
    lines = [match for line in text.splitlines() if len(line) <= _LONGEST_LINE and (match := _LINE.match(line))]
    return [(m["name"], list(map(float, BOX.search(m["box"]).groups())), "") for m in lines] or None


def _first(row: dict, *keys: str) -> object:
    return next((row[key] for key in keys if key in row), None)


def _text(row: dict, *keys: str) -> str:
    value = _first(row, *keys)
    return value if isinstance(value, str) else ""


def read_box(written: object, coordinates: str, shown: tuple[int, int], size: tuple[int, int]) -> Box | None:
    """Return a box in original pixels, or None for what is no box inside the picture.

    Args:
        written: four numbers, x1, y1, x2, y2.
        coordinates: "percent" or "permille" of the picture, or "pixels" of the picture as it was shown.
        shown: (width, height) of the picture as it was shown.
        size: (width, height) of the original.
    """
    if not isinstance(written, (list, tuple)) or len(written) != 4:
        return None
    if not all(map(is_number, written)):
        return None
    ends = shown if coordinates == "pixels" else (_SCALE[coordinates],) * 2
    x1, y1, x2, y2 = written
    if not (0 <= x1 < x2 <= ends[0] and 0 <= y1 < y2 <= ends[1]):
        return None
    return tuple(v * size[k % 2] / ends[k % 2] for k, v in enumerate(written))
