"""Kimi-VL's boxes: `{"bbox_2d": [0.280, 0.500, 0.520, 0.700]}` (MoonshotAI/Kimi-VL issues 52 and 56)."""

from __future__ import annotations

from lynx_moe.families.dialects.base import DIALECTS
from lynx_moe.families.dialects.json_objects import JsonDialect


@DIALECTS.register("kimi_vl")
class KimiVLDialect(JsonDialect):
    """Three decimals between 0 and 1 of the picture, as users of the model report; the paper does not say.

    Unverified: `point_2d` for points (the model's known points are arguments of clicks), and that the later Kimi-K2.5,
    which transformers has, speaks the same; so that is not listed. Kimi-VL's code lies in its repository.

    >>> KimiVLDialect().encode((28, 50, 52, 70), (100, 100))
    '{"bbox_2d": [0.280, 0.500, 0.520, 0.700]}'
    """

    name = "kimi_vl"
    families = ("kimi_vl",)
    of_picture = True
    steps = 1000
    decimals = 3
    quantum = 0.001
