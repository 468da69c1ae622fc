"""The paper's own boxes: `[x1, y1, x2, y2]` in whole percent (arXiv 2410.10491, method figure)."""

from __future__ import annotations

from lynx_moe.families.dialects.base import DIALECTS
from lynx_moe.families.dialects.brackets import BracketDialect


@DIALECTS.register("percent")
class PercentDialect(BracketDialect):
    """Integers 0 to 100 of what the model sees: the padded square if the processor pads, the crop if it crops, else
    the picture. A point in two numbers is our choice.

    >>> from lynx_moe.families.dialects.geometry import Geometry
    >>> percent = PercentDialect(Geometry(pad_square=True))
    >>> percent.encode((0, 0, 50, 50), (100, 50))
    '[0, 25, 50, 75]'
    >>> percent.decode("the cat at [0, 25, 50, 75].", (100, 50)).boxes[0].xyxy
    (0.0, 0.0, 50.0, 50.0)
    """

    name = "percent"
    steps = 100
    quantum = 0.01
