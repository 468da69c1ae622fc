"""How sure a number is: a change of accuracy on the same questions, a mean, and anything else over drawn units."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache

import numpy as np

DRAWS = 10_000
_SKIPPED: ContextVar[bool] = ContextVar("_SKIPPED", default=False)
FEW_KINDS = 64  # so many different values are counted, more are drawn one by one
FEWEST_DRAWS = 200
MOST_NUMBERS = 200_000_000  # drawn one by one for one interval: about two seconds


@contextmanager
def without_intervals() -> Iterator[None]:
    """Inside, no interval is drawn: ends are NaN, or None where they may be.

    For numbers that are summed up again in every draw of an interval, whose own intervals nobody will look at.
    """
    token = _SKIPPED.set(True)
    try:
        yield
    finally:
        _SKIPPED.reset(token)


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


def mean_interval(values: Sequence[float], level: float = 0.95, draws: int = DRAWS) -> tuple[float, float]:
    """Percentile interval of the bootstrap (Efron and Tibshirani 1993, chapter 13) for the mean of `values`.

    Values are drawn with replacement; where few differ (right or wrong), only how often each was drawn is, which is the
    same and costs nothing. The same values give the same interval.

    Args:
        values: one per unit that was sampled, such as 0 and 1 per question. Where several questions share a
            picture, give one mean per picture, or the interval is too narrow.
        draws: how often; beyond `MOST_NUMBERS` numbers it is fewer, but never under `FEWEST_DRAWS`.

    Returns:
        Lower and upper end; both are the value when there is only one, or all are the same.

    Raises:
        ValueError: no values, or one is not finite.
    """
    values_N = np.asarray(values, dtype=np.float64)
    if values_N.ndim != 1 or not len(values_N) or not np.isfinite(values_N).all():
        raise ValueError("an interval needs a list of at least one number, all finite")
    if _SKIPPED.get():
        return math.nan, math.nan
    rng = np.random.default_rng(0)
    n = len(values_N)
    kinds_K, counts_K = np.unique(values_N, return_counts=True)
    if len(kinds_K) <= FEW_KINDS:
        means = rng.multinomial(n, counts_K / n, size=draws) @ kinds_K / n
    else:
        draws = min(draws, max(FEWEST_DRAWS, MOST_NUMBERS // n))
        # One draw at a time: all at once would be draws * n numbers in memory.
        means = np.array([values_N[rng.integers(0, n, n)].mean() for _ in range(draws)])
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def bootstrap_interval(
    statistic: Callable[[np.ndarray], float | None],
    n: int,
    level: float = 0.95,
    draws: int = 1000,
    seconds: float = 60.0,
) -> tuple[float, float, int] | None:
    """Percentile interval of the bootstrap for any number over `n` units, in a bounded time.

    Args:
        statistic: from how often each unit was drawn (`n` whole numbers that sum to `n`) to the number, such as an AP
            over pictures; None where a draw gives none.
        draws: how often, at most.
        seconds: no draw starts after so many, but for the first two; so only a run that has time for all draws gives
            the same interval again.

    Returns:
        Lower end, upper end, and how many draws they come from; None of a single unit, which says nothing of how units
        differ, and where fewer than two draws gave a number.
    """
    if _SKIPPED.get() or n < 2:
        return None
    rng = np.random.default_rng(0)
    end = time.monotonic() + seconds
    found: list[float] = []
    for draw in range(draws):
        if draw >= 2 and time.monotonic() > end:
            break
        value = statistic(np.bincount(rng.integers(0, n, n), minlength=n))
        if value is not None:
            found.append(value)
    if len(found) < 2:
        return None
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high), len(found)
