"""How sure a change of accuracy is, when the same questions were answered before and after."""

from __future__ import annotations

from functools import cache

import numpy as np

DRAWS = 10_000


@cache
def paired_interval(lost: int, won: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval of the paired bootstrap (Efron and Tibshirani 1993) for accuracy after minus before.

    A question counts -1 (lost), +1 (won) or 0, so drawing n questions with replacement is drawing how many of each
    kind there are: one multinomial draw, and no answer is needed. The same numbers give the same interval.

    Args:
        lost, won: questions that were right only before, only after.
        n: all questions that were asked.

    Returns:
        Lower and upper end, as shares of the questions. Without any flip both are 0, however small n is.
    """
    draws_3 = np.random.default_rng(0).multinomial(n, [lost / n, won / n, (n - lost - won) / n], size=DRAWS)
    change = (draws_3[:, 1] - draws_3[:, 0]) / n
    low, high = np.quantile(change, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
