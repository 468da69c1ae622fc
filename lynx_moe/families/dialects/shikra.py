"""Shikra's boxes: `[0.100,0.200,0.300,0.400]` (arXiv 2306.15195; `PlainBoxFormatter` of shikras/shikra)."""

from __future__ import annotations

from lynx_moe.families.dialects.base import DIALECTS
from lynx_moe.families.dialects.brackets import BracketDialect


@DIALECTS.register("shikra")
class ShikraDialect(BracketDialect):
    """Three decimals between 0 and 1 of what the model sees: Shikra's own code pads to a square (`Expand2square`).

    A point is `[x,y]`, and places of one phrase share a group, parted by semicolons. No model type of transformers
    speaks it; it serves checkpoints of that code, and new ones.

    >>> ShikraDialect().encode((10, 20, 30, 40), (100, 100))
    '[0.100,0.200,0.300,0.400]'
    >>> len(ShikraDialect().decode("two cats [0.1,0.2,0.3,0.4;0.5,0.5,0.7,0.9]", (100, 100)).boxes)
    2
    """

    name = "shikra"
    families = ("shikra",)
    steps = 1000
    decimals = 3
    quantum = 0.001
    comma = ","
    several = ";"
