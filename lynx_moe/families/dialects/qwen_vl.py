"""Qwen-VL's boxes: `<ref>the cat</ref><box>(x1,y1),(x2,y2)</box>` (arXiv 2308.12966; its tokenizer's tags)."""

from __future__ import annotations

from lynx_moe.families.dialects.base import DIALECTS
from lynx_moe.families.dialects.marked import MarkedDialect


@DIALECTS.register("qwen_vl")
class QwenVLDialect(MarkedDialect):
    """Integers 0 to 1000 of the picture, rounded (ms-swift's `norm1000`).

    The first Qwen-VL, whose code lies in its repository and not in transformers. Its paper says [0, 1000); ms-swift
    writes 1000 for the far edge, and that is read here. An outline of four corners stands in `<quad>`: the tags are in
    the tokenizer, that they hold pairs like a box is unverified. A point as one pair is ms-swift's way.

    >>> from lynx_moe.grounding import Box
    >>> QwenVLDialect().encode(Box(10, 20, 30, 40, "the cat"), (100, 100))
    '<ref>the cat</ref><box>(100,200),(300,400)</box>'
    """

    name = "qwen_vl"
    families = ("qwen",)
    of_picture = True
    steps = 1000
    quantum = 0.001
    label_marks = ("<ref>", "</ref>")
    box_marks = ("<box>", "</box>")
    quad_marks = ("<quad>", "</quad>")
