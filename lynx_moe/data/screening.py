"""Which records a model cannot learn from, and why: they are left out and counted, never cut and never trained wrongly.

A pass over all records would make the start grow with the data. So of a large set some are looked at before training,
evenly spread; one that is met later is replaced by the next good one in the folder's order, so that the data order does
not depend on who loads it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from lynx_moe.data.prompts import frame
from lynx_moe.data.records import Record, RecordSet
from lynx_moe.data.sample import SampleBuilder, Tokens
from lynx_moe.data.steps import WHOLE, Stepwise, step_tokens
from lynx_moe.errors import DialectError, LynxError, RecordError
from lynx_moe.grounding import Box

LOOKED_AT = 2000  # records, before training
TRIES = 100  # records in a row that may be bad before a run gives up
EXAMPLES = 5
REASONS = {
    "hidden": "the processor crops one of their boxes or points away",
    "unwritable": "the dialect or the chat template cannot write them",
    "unreadable": "their picture cannot be decoded",
    "beside": "they share a packed row with a record whose picture cannot be decoded",
    "too_long": "they have more tokens than the model has positions, so that the answer would be cut",
}


@dataclass(kw_only=True)
class LeftOut:
    """Records left out, by reason, of those looked at; `examples` are a few of them with what is wrong."""

    checked: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    @property
    def total(self) -> int:
        return self.counts.total()

    def note(self, reason: str, problem: LynxError) -> None:
        self.counts[reason] += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(f"{problem.message} ({problem.why})")

    def refuse(self, most: float) -> None:
        """Nothing while at most that share is left out.

        Raises:
            RecordError: more than `most` of the records looked at cannot be used, or none can.
        """
        if not self.checked or (self.total <= most * self.checked and self.total < self.checked):
            return
        why = "; ".join(f"{count}: {REASONS[reason]}" for reason, count in self.counts.most_common())
        raise RecordError(
            f"{self.total} of {self.checked} records cannot be used, the first: {self.examples[0]}",
            why=f"{why}; data.max_left_out allows a share of {most:g}",
            fix="lynx-moe doctor shows them; a processor that pads instead of cropping, another model.dialect, or "
            "other records help",
        )


class Screen:
    """Says of a record whether a model can learn from it.

    Args:
        builder: words and tokenises.
        max_positions: tokens that the model has positions for; None where it sets no limit.
        stepwise: how stepwise answers are learned.
    """

    def __init__(self, builder: SampleBuilder, max_positions: int | None = None, stepwise: Stepwise = WHOLE):
        self.builder = builder
        self.max_positions = max_positions
        self.stepwise = stepwise

    def look(self, record: Record) -> list[Tokens] | tuple[str, LynxError]:
        """The tokens of each sample of a record that can be used; else one of `REASONS` and an error that names it."""
        if hides(record, self.builder):
            return "hidden", RecordError(
                f"record {record.id!r} has a box or a point that the model cannot see",
                why="the processor crops that part of the picture away", fix="use a processor that pads",
            )  # fmt: skip
        try:
            tokens = step_tokens(self.builder, record, self.stepwise)
        except (DialectError, RecordError) as error:
            return "unwritable", named(record, error)
        try:
            self.check_length(record, max(self.builder.length(each, record.sizes) for each in tokens))
        except RecordError as error:
            return "too_long", error
        return tokens

    def check_length(self, record: Record, length: int) -> None:
        """Raises RecordError when a sample of `length` tokens does not fit the model."""
        if self.max_positions is not None and length > self.max_positions:
            raise RecordError(
                f"record {record.id!r} is {length} tokens long, the model has {self.max_positions} positions",
                why="its answer lies at the end and would be cut or read at places the base never saw",
                fix="leave it out, or make its picture or text smaller",
            )

    def usable(self, records: RecordSet, positions: Sequence[int]) -> tuple[dict[int, list[Tokens]], LeftOut]:
        """Of `positions` those whose records can be used, with their tokens; and what was left out."""
        kept, left_out = {}, LeftOut(checked=len(positions))
        for position in positions:
            found = self.look(records[position])
            if isinstance(found, list):
                kept[position] = found
            else:
                left_out.note(*found)
        return kept, left_out


def hides(record: Record, builder: SampleBuilder) -> bool:
    """Whether the processor crops a box of the record, or one that its question shows, wholly out of the picture."""
    geometry = builder.dialect.geometry
    if geometry.sees_all or not record.sizes:
        return False
    places = [(record.picture, record.boxes), (0, record.question_boxes)]
    places += [(step.picture, step.boxes) for step in record.steps]
    boxes = all(
        geometry.visible(Box(*box), frame(record, picture)) is not None
        for picture, those in places
        for box in those
        if len(box) == 4
    )
    return not (boxes and all(geometry.shows(point, record.size) for point in record.question_points))


def readable(record: Record) -> bool:
    """Whether all its pictures can be decoded."""
    try:
        for picture in range(len(record.sizes)):
            record.image(picture)
    except RecordError:
        return False
    return True


def named(record: Record, error: LynxError) -> LynxError:
    """The same error with the record's id in front of it."""
    if repr(record.id) in error.message:
        return error
    return type(error)(f"record {record.id!r}: {error.message}", why=error.why, fix=error.fix)


def evenly(count: int, limit: int = LOOKED_AT) -> range | list[int]:
    """At most `limit` of `count` positions, evenly spread, in order."""
    return range(count) if count <= limit else [k * count // limit for k in range(limit)]


def first_usable(
    start: int, count: int, make: Callable[[int], Any], records: Callable[[int], list[int]]
) -> tuple[Any, int, list[int]]:
    """`make(start)`, or of what comes next where that cannot be used; its place; and the records passed by.

    Args:
        make: what is at a place; RecordError or DialectError where nothing can be.
        records: the records of a place.

    Raises:
        RecordError: nothing can be used within `TRIES` places.
    """
    passed: list[int] = []
    for place in (number % count for number in range(start, start + min(count, TRIES))):
        try:
            return make(place), place, passed
        except (DialectError, RecordError) as error:
            passed += records(place)
            last = error
    raise RecordError(
        f"{len(passed)} records in a row cannot be used, the last: {last.message}", why=last.why, fix=last.fix
    )
