"""Gemma 4's boxes: `{"box_2d": [y1, x1, y2, x2], "label": "cat"}` in thousandths, as Gemini writes them."""

from __future__ import annotations

from lynx_moe.families.dialects.base import DIALECTS
from lynx_moe.families.dialects.json_objects import JsonDialect


@DIALECTS.register("gemma")
class GemmaDialect(JsonDialect):
    """Integers 0 to 1000 of the picture, y before x (Google's page on boxes says so of Gemini; users' code of Gemma 4).

    Gemma 3 and 3n are not listed: asked for it, Google says only that they are not documented to write boxes
    (google/gemma-3-4b-it, discussion 38). Unverified: `point` for points, `[y, x]` as in Gemini.

    >>> from lynx_moe.grounding import Box
    >>> GemmaDialect().encode(Box(10, 20, 30, 40, "cat"), (100, 100))
    '{"box_2d": [200, 100, 400, 300], "label": "cat"}'
    """

    name = "gemma"
    families = ("gemma4", "gemma4_unified")
    of_picture = True
    rows_first = True
    steps = 1000
    quantum = 0.001
    box_key = "box_2d"
    point_key = "point"
