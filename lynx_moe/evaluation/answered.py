"""Answered records, and the measures that turn them into numbers."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lynx_moe.data import Record, final_answer
from lynx_moe.data.prompts import frame, step_texts
from lynx_moe.evaluation.matching import matched
from lynx_moe.evaluation.spoken_masks import Masks, final_masks
from lynx_moe.families.dialects import Dialect, Parsed
from lynx_moe.registry import Registry


@dataclass(slots=True)
class Answered:
    """A record, what the model wrote about it, how its final answer reads, and the true boxes that its steps have.

    `masks` has one for each word for a mask in the final answer, None where there is none that a head drew; or what its
    outlines enclose. `shown` are the forms (box, point, mask) of the question's visual prompts, none where text told it
    the places.
    """

    record: Record
    text: str
    parsed: Parsed
    step_hits: int = 0
    masks: Masks = ()
    shown: tuple[str, ...] = ()

    @classmethod
    def read(
        cls, record: Record, text: str, dialect: Dialect, masks: Masks = (), shown: tuple[str, ...] = ()
    ) -> Answered:
        """Parse the final answer and each step by itself: boxes of earlier steps are not the answer.

        Boxes are read in the frame of the picture that the true ones lie in: an answer has no other way to say of
        which picture its numbers are than in words, and those `in_another_picture` judges.

        Args:
            masks: of all words for one in `text`, as `Generated` has them.
            shown: forms of the question's visual prompts.
        """
        size = frame(record, record.picture)
        parsed = dialect.decode(final_answer(text), size)
        hits = step_hits(record, read_steps(record, text, dialect))
        return cls(record, text, parsed, hits, final_masks(masks, parsed, size), shown)

    @property
    def in_another_picture(self) -> bool:
        """Whether the true answer says in which of several pictures its boxes lie, and this one does not say the same.

        Where the question tells the picture already, and the true answer does not repeat it, this is False.
        """
        if not self.record.more or not self.record.boxes:
            return False
        true = named_pictures(self.record.answer)
        return bool(true) and named_pictures(final_answer(self.text)) != true


def read_steps(record: Record, text: str, dialect: Dialect) -> tuple[Parsed, ...]:
    """How each written step that the record has a true one for reads, in the frame of that one's picture."""
    written = zip(record.steps, step_texts(text), strict=False)
    return tuple(dialect.decode(part, frame(record, step.picture)) for step, part in written)


def step_hits(record: Record, steps: Sequence[Parsed]) -> int:
    """True boxes of the record's steps that the written step of the same number has."""
    return sum(matched(read.boxes, true.boxes) for true, read in zip(record.steps, steps, strict=False))


# How answers call pictures, by number; a language that is not here is not held to it.
_CALLED = (
    re.compile(r"\bfirst\b|\b1st\b|1番目|一番目|最初の", re.IGNORECASE),
    re.compile(r"\bsecond\b|\b2nd\b|2番目|二番目", re.IGNORECASE),
)


def named_pictures(text: str) -> set[int]:
    """Numbers, from 0, of the pictures that a text speaks of as first or second.

    >>> named_pictures("The cat is in the second picture, at [1, 2, 3, 4].")
    {1}
    """
    return {number for number, pattern in enumerate(_CALLED) if pattern.search(text)}


# Name of a part of the result -> function(answered) that gives it, or None when no record is for it.
MEASURES: Registry[Callable[[Sequence[Answered]], dict | None]] = Registry("measure of records")


def share(part: int | float, whole: int) -> float | None:
    """`part / whole`, None when there is nothing to divide by: no number is better than a wrong 0."""
    return part / whole if whole else None
