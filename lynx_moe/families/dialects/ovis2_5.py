"""Ovis2.5's boxes: `<ref>the cat</ref><box>(0.401,0.526),(0.430,0.557)</box>` (its model card)."""

from __future__ import annotations

from lynx_moe.families.dialects.base import DIALECTS
from lynx_moe.families.dialects.marked import MarkedDialect


@DIALECTS.register("ovis2_5")
class Ovis25Dialect(MarkedDialect):
    """Three decimals of the picture in [0, 1); a point is `<point>(x,y)</point>`, several stand in square brackets.

    The far edge is written 0.999, and a thin box there may be two thousandths off. The older Ovis2, which transformers
    has, is not documented to write boxes, so only 2.5, whose code lies in its repository, is listed. Whether the marks
    are special tokens of its tokenizer is unverified.

    >>> from lynx_moe.grounding import Box
    >>> Ovis25Dialect().encode(Box(10, 20, 30, 40, "the cat"), (100, 100))
    '<ref>the cat</ref><box>(0.100,0.200),(0.300,0.400)</box>'
    """

    name = "ovis2_5"
    families = ("ovis2_5",)
    of_picture = True
    steps = 1000
    decimals = 3
    half_open = True
    quantum = 0.002
    label_marks = ("<ref>", "</ref>")
    box_marks = ("<box>", "</box>")
    point_marks = ("<point>", "</point>")
