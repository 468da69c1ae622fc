"""Qwen3-VL's boxes: `{"bbox_2d": [x1, y1, x2, y2], "label": "cat"}` in thousandths of the picture."""

from __future__ import annotations

from lynx_moe.families.dialects.base import DIALECTS
from lynx_moe.families.dialects.json_objects import JsonDialect


@DIALECTS.register("qwen3_vl")
class Qwen3VLDialect(JsonDialect):
    """Integers 0 to 1000 of the picture, rounded (ms-swift's `norm1000` for this family; QwenLM/Qwen3-VL issue 1835).

    It looks like Qwen2.5-VL's and means something else, so never take one for the other. A point is `point_2d`. That
    Qwen3.5 kept the frame is ms-swift's word.

    >>> from lynx_moe.grounding import Box
    >>> Qwen3VLDialect().encode(Box(10, 20, 30, 40, "cat"), (100, 100))
    '{"bbox_2d": [100, 200, 300, 400], "label": "cat"}'
    """

    name = "qwen3_vl"
    families = ("qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe", "qwen3_omni_moe_thinker")
    of_picture = True
    steps = 1000
    quantum = 0.001
