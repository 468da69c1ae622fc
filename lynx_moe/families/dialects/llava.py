"""LLaVA-1.5's boxes: `[x1, y1, x2, y2]`, two decimals between 0 and 1 (haotian-liu/LLaVA issues 606, 623, 822)."""

from __future__ import annotations

from lynx_moe.families.dialects.base import DIALECTS
from lynx_moe.families.dialects.brackets import BracketDialect


@DIALECTS.register("llava")
class LlavaDialect(BracketDialect):
    """Fractions of what the model sees: LLaVA's padded square, or the centre crop if the checkpoint's processor crops.

    The original code padded to a square; a checkpoint whose processor crops instead never shows the model that
    square, so the frame follows the processor. A point in two numbers is our choice.

    >>> LlavaDialect().encode((10, 20, 30, 40), (100, 100))
    '[0.10, 0.20, 0.30, 0.40]'
    """

    name = "llava"
    families = ("llava",)
    steps = 100
    decimals = 2
    quantum = 0.01
