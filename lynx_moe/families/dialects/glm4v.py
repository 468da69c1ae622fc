"""GLM-4.1V's, 4.5V's and 4.6V's boxes: `<|begin_of_box|>[[x1,y1,x2,y2]]<|end_of_box|>` in thousandths."""

from __future__ import annotations

from dataclasses import replace

from lynx_moe.families.dialects.base import DIALECTS
from lynx_moe.families.dialects.geometry import Size
from lynx_moe.families.dialects.grammar import Grammar
from lynx_moe.families.dialects.marked import MarkedDialect


@DIALECTS.register("glm4v")
class Glm4vDialect(MarkedDialect):
    """Integers 0 to 1000 of the picture, `round(x / width * 1000)` (zai-org/GLM-V, the grounding skill's notes).

    The marks stand around any final answer of these models, so words between them are no error. Their model card says
    that the style of brackets may vary, so four numbers between the marks are read in any round or square ones, or in
    none; frame and order are the same. There is no place for a label. On request they also write JSON with `bbox_2d` in
    the same frame: that spelling is `qwen3_vl`'s. A point as two numbers in the same list is unverified.

    >>> Glm4vDialect().encode((10, 20, 30, 40), (100, 100))
    '<|begin_of_box|>[[100,200,300,400]]<|end_of_box|>'
    >>> Glm4vDialect().decode("<|begin_of_box|>two<|end_of_box|>", (100, 100)).errors
    Counter()
    """

    name = "glm4v"
    families = ("glm4v", "glm4v_moe", "glm46v")
    of_picture = True
    steps = 1000
    quantum = 0.001
    box_marks = ("<|begin_of_box|>", "<|end_of_box|>")
    lists = True
    comma = ","
    any_answer = True

    def _grammar(self, size: Size) -> Grammar:
        """As derived, but a box is open from its brackets on: the mark in front of them opens answers in words too."""
        derived = super()._grammar(size)
        (head,) = {parts[0] for parts in derived.alternatives}
        rest = tuple(parts[1:] for parts in derived.alternatives)
        return replace(derived, opening=derived.opening + head, alternatives=rest, heads=0)
