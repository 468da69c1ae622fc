"""Pixels themselves: what a token is told in is its own patch of the picture. Needs no weights."""

from __future__ import annotations

import hashlib

from torch import Tensor

from lynx_moe.objectives.tokenizers.base import TOKENIZERS, Tokenizer


@TOKENIZERS.register("pixels")
class Pixels(Tokenizer):
    """RGB in -1..1, `fold` x `fold` pixels to a token; the picture is resized to that."""

    usual_fold = 16
    caches = False
    stride = 1
    depth = 3

    @property
    def identity(self) -> str:
        return hashlib.sha256(b"RGB in -1..1").hexdigest()

    def encode(self, picture_3HW: Tensor) -> dict[str, Tensor]:
        return {"mean": picture_3HW * 2 - 1}

    def mean(self, known: dict[str, Tensor]) -> Tensor:
        return known["mean"]

    def decode(self, map_MYX: Tensor) -> Tensor:
        return (map_MYX + 1) / 2
