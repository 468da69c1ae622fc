"""Ferret's boxes: `[x1, y1, x2, y2]` in thousandths (apple/ml-ferret: `VOCAB_IMAGE_W = VOCAB_IMAGE_H = 1000`)."""

from __future__ import annotations

from lynx_moe.families.dialects.base import DIALECTS
from lynx_moe.families.dialects.brackets import BracketDialect
from lynx_moe.families.dialects.numbers import FloorDialect


@DIALECTS.register("ferret")
class FerretDialect(FloorDialect, BracketDialect):
    """Integers 0 to 1000 of the picture, cut off as `int(1000 * x / width)` does; a point is `[x, y]`.

    The box follows the name it belongs to in plain text, so it carries no label. Ferret's region features
    (`<region_fea>`) are no text, and not written. No model type of transformers speaks it.

    >>> FerretDialect().encode((10, 20, 30, 40), (64, 64))
    '[156, 312, 468, 625]'
    """

    name = "ferret"
    families = ("ferret", "ferret_llama")
    of_picture = True
    steps = 1000
    quantum = 0.001
