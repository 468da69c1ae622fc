"""How far one box that never looks at the picture gets: the commonest place of a phrase, of a task, or the middle."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from synth.quality.gather import BoxExample

_ENOUGH = 5  # boxes of a phrase from which its own median is used
_SIDES = np.linspace(0.2, 1.0, 9)  # of the constant boxes that are tried


@dataclass(frozen=True, slots=True)
class BlindBox:
    """Shares of the held-out questions, 0 to 1, whose box a blind one overlaps by an IoU of at least 0.5."""

    fitted: int
    held_out: int
    median: float
    per_phrase: float
    constant: float

    @property
    def best(self) -> float:
        return max(self.median, self.per_phrase, self.constant)


def blind_box(fit: Sequence[BoxExample], held_out: Sequence[BoxExample]) -> BlindBox:
    """Fit blind boxes, as shares of the picture, and try them on other questions; both must be non-empty.

    ``median`` is the median box of the task, ``per_phrase`` that of the phrase where it was seen often enough, and
    ``constant`` the best of centred and placed boxes of several sizes, chosen on the fitted questions.
    Raises ``ValueError`` when one is empty.
    """
    if not fit or not held_out:
        raise ValueError("a blind box needs questions to fit and questions held out")
    known_N4, asked_N4 = (np.array([e.box for e in part]) for part in (fit, held_out))
    median_4 = np.median(known_N4, 0)
    by_phrase = defaultdict(list)
    for example in fit:
        by_phrase[example.phrase].append(example.box)
    medians = {phrase: np.median(boxes, 0) for phrase, boxes in by_phrase.items() if len(boxes) >= _ENOUGH}
    phrase_N4 = np.array([medians.get(example.phrase, median_4) for example in held_out])
    constants = [
        np.array([x, y, x + w, y + h])
        for w in _SIDES for h in _SIDES
        for x in np.linspace(0, 1 - w, 4) for y in np.linspace(0, 1 - h, 4)
    ]  # fmt: skip
    constant_4 = max(constants, key=lambda box_4: _accuracy(box_4[None], known_N4))
    return BlindBox(
        len(fit), len(held_out), median=_accuracy(median_4[None], asked_N4),
        per_phrase=_accuracy(phrase_N4, asked_N4), constant=_accuracy(constant_4[None], asked_N4),
    )  # fmt: skip


def _accuracy(guess_N4: np.ndarray, true_N4: np.ndarray) -> float:
    """Share of boxes with IoU >= 0.5; a single guess is held against all."""
    low, high = np.maximum(guess_N4[:, :2], true_N4[:, :2]), np.minimum(guess_N4[:, 2:], true_N4[:, 2:])
    common = np.clip(high - low, 0, None).prod(1)
    union = (guess_N4[:, 2:] - guess_N4[:, :2]).prod(1) + (true_N4[:, 2:] - true_N4[:, :2]).prod(1) - common
    return float((common >= 0.5 * union).mean())
