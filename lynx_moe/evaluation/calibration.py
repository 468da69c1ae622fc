"""Whether a confidence of 0.8 is right eight times in ten, and a temperature that makes it so.

Everywhere `confidences` (n,) are numbers from 0 to 1 and `right` (n,) says whether the box was right.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np

from lynx_moe.errors import CheckpointError, ConfigError
from lynx_moe.whole import write_json

BINS = 15
NEAREST = 1e-6  # to 0 and 1, where no temperature moves anything
SMALLEST, LARGEST = 0.02, 50.0  # temperatures


def reliability(
    confidences: Sequence[float], right: Sequence[bool], bins: int = BINS, *, equal_mass: bool = False
) -> list[dict]:
    """The bins of a reliability diagram, empty ones left out, in rising order.

    Args:
        bins: how many.
        equal_mass: as many boxes in each bin, but equal confidences stay together; else bins of equal width, each with
            its upper end.

    Returns:
        Of each bin `n`, `confidence` (the mean), `accuracy`, `low` and `high` (the smallest and largest confidence in
        it).

    Raises:
        ConfigError: the lengths differ, there are none, a confidence is not in 0..1, or there is no bin.
    """
    c_N, right_N = _checked(confidences, right)
    if bins < 1:
        raise ConfigError(f"{bins} bins", why="boxes are counted in bins", fix="ask for one or more")
    if equal_mass:
        place_N = np.searchsorted(np.sort(c_N), c_N) * bins // len(c_N)
    else:
        place_N = np.clip(np.ceil(c_N * bins).astype(int) - 1, 0, bins - 1)
    parts = [np.flatnonzero(place_N == k) for k in range(bins)]
    return [
        {
            "n": len(part),
            "confidence": float(c_N[part].mean()),
            "accuracy": float(right_N[part].mean()),
            "low": float(c_N[part].min()),
            "high": float(c_N[part].max()),
        }
        for part in parts
        if len(part)
    ]


def expected_calibration_error(
    confidences: Sequence[float], right: Sequence[bool], bins: int = BINS, *, equal_mass: bool = False
) -> float:
    """The mean of |accuracy - confidence| over the bins of `reliability`, weighed by their boxes.

    Source: Guo et al. 2017 (arXiv 1706.04599), with bins of equal width; bins of equal mass are its usual variant.

    Raises:
        ConfigError: as `reliability`.
    """
    parts = reliability(confidences, right, bins, equal_mass=equal_mass)
    return sum(part["n"] * abs(part["accuracy"] - part["confidence"]) for part in parts) / len(confidences)


def brier(confidences: Sequence[float], right: Sequence[bool]) -> float:
    """The mean squared difference between confidence and being right (1 or 0); 0 is best. Brier 1950.

    Raises:
        ConfigError: the lengths differ, there are none, or a confidence is not in 0..1.
    """
    c_N, right_N = _checked(confidences, right)
    return float(((c_N - right_N) ** 2).mean())


def calibration_report(confidences: Sequence[float], right: Sequence[bool], bins: int = BINS) -> dict | None:
    """All of it, plain enough for JSON; None where there are no boxes.

    Returns:
        `n`, `accuracy`, `confidence` (the mean), `ece` (equal width), `ece_equal_mass`, `brier`, `reliability`.

    Raises:
        ConfigError: the lengths differ, or a confidence is not in 0..1.
    """
    if not len(confidences) and not len(right):
        return None
    c_N, right_N = _checked(confidences, right)
    return {
        "n": len(c_N),
        "accuracy": float(right_N.mean()),
        "confidence": float(c_N.mean()),
        "ece": expected_calibration_error(confidences, right, bins),
        "ece_equal_mass": expected_calibration_error(confidences, right, bins, equal_mass=True),
        "brier": brier(confidences, right),
        "reliability": reliability(confidences, right, bins),
    }


@dataclass(frozen=True, slots=True)
class Temperature:
    """Divides the logarithm of a confidence, `c ** (1 / temperature)`: above 1 makes it surer; boxes keep their order.

    A box's confidence is the mean log probability of its numbers' tokens, and that is what is divided. Several numbers
    are right at once (41 and 42 both overlap enough) and share the probability between them: confidences come out too
    low as a whole, and a temperature on the logit, as classifiers are calibrated (Guo et al. 2017, arXiv 1706.04599),
    leaves what is below 0.5 below 0.5. Measured in docs/results.md. Our choice.

    >>> Temperature(2.0)(0.64)
    0.8
    """

    value: float = 1.0

    def __post_init__(self):
        if isinstance(self.value, bool) or not (math.isfinite(self.value) and self.value > 0):
            raise ConfigError(
                f"{self.value!r} is no temperature",
                why="it divides logits",
                fix="give a positive number; 1 changes nothing",
            )

    def __call__(self, confidence: float) -> float:
        return float(_inside(confidence) ** (1 / self.value))

    @classmethod
    def fit(cls, confidences: Sequence[float], right: Sequence[bool]) -> Temperature:
        """The temperature that makes what was seen most probable; fit it on boxes that are not measured afterwards.

        The negative log likelihood is convex in 1 / temperature, so its slope is zero at one place at most, which is
        found by halving. Where it is zero nowhere (all boxes right, say) the nearer end of 0.02 to 50 is taken.

        Raises:
            ConfigError: the lengths differ, there are none, or a confidence is not in 0..1.
        """
        c_N, right_N = _checked(confidences, right)
        log_N = np.log(_inside(c_N))
        low, high = math.log(1 / LARGEST), math.log(1 / SMALLEST)
        for _ in range(100):
            middle = (low + high) / 2
            # The odds c^s / (1 - c^s), by expm1 because c^s may be 1 to the last digit.
            odds_N = -np.exp(math.exp(middle) * log_N) / np.expm1(math.exp(middle) * log_N)
            if float((log_N * np.where(right_N, -1.0, odds_N)).sum()) > 0:
                high = middle
            else:
                low = middle
        return cls(math.exp(-(low + high) / 2))

    def save(self, path: str | PathLike) -> None:
        """Writes it as JSON.

        Raises:
            CheckpointError: the file cannot be written.
        """
        write_json(Path(path), {"temperature": self.value})

    @classmethod
    def load(cls, path: str | PathLike) -> Temperature:
        """Reads what `save` wrote.

        Raises:
            CheckpointError: it is not there, or something else.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            return cls(content["temperature"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"no temperature in {str(path)!r}", why=str(error).splitlines()[0], fix="fit one and save it again"
            ) from error


def _inside(confidence: np.ndarray | float) -> np.ndarray:
    return np.clip(np.asarray(confidence, dtype=float), NEAREST, 1 - NEAREST)


def _checked(confidences: Sequence[float], right: Sequence[bool]) -> tuple[np.ndarray, np.ndarray]:
    c_N, right_N = np.asarray(confidences, dtype=float), np.asarray(right, dtype=float)
    if c_N.ndim != 1 or c_N.shape != right_N.shape or not len(c_N):
        raise ConfigError(
            f"{len(confidences)} confidences and {len(right)} verdicts",
            why="each box has one of each, and there must be a box",
            fix="give both in one order",
        )
    if not ((c_N >= 0) & (c_N <= 1)).all() or not np.isin(right_N, (0, 1)).all():
        raise ConfigError(
            "these are no confidences and verdicts",
            why="confidences are numbers from 0 to 1, verdicts are true or false",
            fix="take them from `box_confidences` and from what was judged",
        )
    return c_N, right_N
