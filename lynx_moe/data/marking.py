"""Which tokens of an answer spell a box, and to which of its steps each belongs."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from lynx_moe.errors import RecordError
from lynx_moe.families.dialects import Dialect

ANSWER = -1  # number of the step that is the answer: the last, however many there are

Spans = Sequence[tuple[int, int]]  # characters (begin, end) of each token


def in_boxes(dialect: Dialect, prompt: str, full: str, sizes: Sequence[tuple[int, int]], spans: Spans) -> np.ndarray:
    """(L,) True for each token of `full` that spells a part of a box of any picture behind the prompt."""
    start = len(os.path.commonprefix([prompt, full]))
    found = [span for size in set(sizes) for span in dialect.decode(full[start:], size).spans]
    boxes = [(start + begin, start + end) for begin, end in found]
    return np.array([any(begin < b and a < end for a, b in boxes) for begin, end in spans], dtype=bool)


def in_steps(starts: Sequence[int], full: str, answer: str, spans: Spans) -> np.ndarray:
    """(answer's tokens,) the step that each belongs to; the space before "Step n:" belongs to step n.

    Args:
        starts: where in `answer` each step begins. spans: of the answer's tokens in `full`.

    Raises:
        RecordError: the answer does not stand in `full` word for word.
    """
    at = full.rfind(answer)
    if at < 0:
        raise RecordError(
            "its answer is not in the text that the chat template makes of it",
            why="steps are found by where their words stand",
            fix="objective.stepwise=whole without weights per step, or a template that leaves answers as they are",
        )
    begins = [at + start for start in starts]
    numbers = 1 + np.searchsorted(begins[1:], [end for _, end in spans], side="left")
    return np.where(numbers == len(begins), ANSWER, numbers)
