"""How well a text fits a picture, in one number: `make_scorer(name, model, processor)(asks)`.

A new scorer is one file here with a class that `SCORERS.register` files, and one line below.
"""

from lynx_moe.evaluation.scoring import clip, embedding, likelihood, vqascore  # noqa: F401  (registers them)
from lynx_moe.evaluation.scoring.base import SCORERS, Scorer, make_scorer

__all__ = ["SCORERS", "Scorer", "make_scorer"]
