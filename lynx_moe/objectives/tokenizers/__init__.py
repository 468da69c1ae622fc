"""What pictures are told in: tokenizers that make a picture numbers on the base's own grid, one file each.

A new one is a class on `Tokenizer` that `TOKENIZERS.register` files, and one line below.
"""

from lynx_moe.objectives.tokenizers.base import TOKENIZERS, Tokenizer
from lynx_moe.objectives.tokenizers.features import Features
from lynx_moe.objectives.tokenizers.kl import KL, Pocket
from lynx_moe.objectives.tokenizers.pixels import Pixels

__all__ = ["TOKENIZERS", "Features", "KL", "Pixels", "Pocket", "Tokenizer"]
