"""InternVL's boxes: `<ref>the cat</ref><box>[[x1, y1, x2, y2]]</box>` in thousandths (OpenGVLab/InternVL issue 844)."""

from __future__ import annotations

from lynx_moe.families.dialects.base import DIALECTS
from lynx_moe.families.dialects.marked import MarkedDialect


@DIALECTS.register("internvl")
class InternVLDialect(MarkedDialect):
    """Integers 0 to 1000 of the picture, rounded: `round(x / width * 1000)` as in ms-swift; several boxes share a list.

    Older fine-tuning data of the project counts 0 to 1; that is another dialect, and its numbers are refused here.
    A point, `<box>[[x, y]]</box>`, is ms-swift's way.

    >>> from lynx_moe.grounding import Box
    >>> InternVLDialect().encode(Box(10, 20, 30, 40, "the cat"), (100, 100))
    '<ref>the cat</ref><box>[[100, 200, 300, 400]]</box>'
    """

    name = "internvl"
    families = ("internvl", "internvl_chat")
    of_picture = True
    steps = 1000
    quantum = 0.001
    label_marks = ("<ref>", "</ref>")
    box_marks = ("<box>", "</box>")
    lists = True
