"""DeepSeek-VL2's boxes: `<|ref|>the cat<|/ref|><|det|>[[x1, y1, x2, y2]]<|/det|>` (arXiv 2412.10302)."""

from __future__ import annotations

from lynx_moe.families.dialects.base import DIALECTS
from lynx_moe.families.dialects.marked import MarkedDialect


@DIALECTS.register("deepseek_vl2")
class DeepseekVL2Dialect(MarkedDialect):
    """Integers 0 to 999 of the picture, where 999 is the far edge: its own demo reads `x / 999 * width`
    (`parse_ref_bbox` of deepseek-ai/DeepSeek-VL2), of the picture as it is given and not of the square it is padded to.

    Several boxes of one name share a list. Rounding to the nearest and a point of two numbers are our choice. Its code
    lies in its repository and not in transformers.

    >>> from lynx_moe.grounding import Box
    >>> DeepseekVL2Dialect().encode(Box(0, 20, 100, 40, "the cat"), (100, 100))
    '<|ref|>the cat<|/ref|><|det|>[[0, 200, 999, 400]]<|/det|>'
    """

    name = "deepseek_vl2"
    families = ("deepseek_vl_v2",)
    of_picture = True
    steps = 999
    quantum = 1 / 999
    label_marks = ("<|ref|>", "<|/ref|>")
    box_marks = ("<|det|>", "<|/det|>")
    lists = True
