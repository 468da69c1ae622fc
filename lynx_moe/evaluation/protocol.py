"""What a protocol is: a function from answered records to numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lynx_moe.data import Record, final_answer
from lynx_moe.families.dialects import Dialect, Parsed
from lynx_moe.registry import Registry


@dataclass(slots=True)
class Answered:
    """A record, what the model wrote about it, and how its final answer reads in the dialect."""

    record: Record
    text: str
    parsed: Parsed

    @classmethod
    def read(cls, record: Record, text: str, dialect: Dialect) -> Answered:
        """Parse the final answer only: boxes of earlier steps are not the answer."""
        return cls(record, text, dialect.decode(final_answer(text), record.size or (1, 1)))


# Name of a part of the result -> function(answered, dialect) that gives it, or None when no record is for it.
PROTOCOLS: Registry[Callable[[Sequence[Answered], Dialect], dict | None]] = Registry("evaluation protocol")


def share(part: int | float, whole: int) -> float | None:
    """`part / whole`, None when there is nothing to divide by: no number is better than a wrong 0."""
    return part / whole if whole else None
