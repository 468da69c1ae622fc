"""Qwen2-VL's boxes: `<|box_start|>(x1,y1),(x2,y2)<|box_end|>` after the object's name (arXiv 2409.12191)."""

from __future__ import annotations

from lynx_moe.families.dialects.base import DIALECTS
from lynx_moe.families.dialects.marked import MarkedDialect


@DIALECTS.register("qwen2_vl")
class Qwen2VLDialect(MarkedDialect):
    """Integers of the picture's thousandths, from 0 up to but not including 1000 (the paper: normalised in [0, 1000)).

    The far edge is therefore written 999, and a thin box there may be two thousandths off. Names stand in
    `<|object_ref_start|>` marks. An outline of four corners stands in `<|quad_start|>`: the tokens are in the
    tokenizer, that they hold pairs like a box is unverified. A point as one pair is ms-swift's way.

    >>> from lynx_moe.grounding import Box
    >>> Qwen2VLDialect().encode(Box(10, 20, 30, 40, "the cat"), (100, 100))
    '<|object_ref_start|>the cat<|object_ref_end|><|box_start|>(100,200),(300,400)<|box_end|>'
    """

    name = "qwen2_vl"
    families = ("qwen2_vl",)
    of_picture = True
    steps = 1000
    half_open = True
    quantum = 0.002
    label_marks = ("<|object_ref_start|>", "<|object_ref_end|>")
    box_marks = ("<|box_start|>", "<|box_end|>")
    quad_marks = ("<|quad_start|>", "<|quad_end|>")
