"""Pairs of things in four arrangements, read from records of task `side`; captions and questions about them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from PIL import Image

from lynx_moe.data import RecordSet
from lynx_moe.data.records import Record
from lynx_moe.errors import RecordError

SIDES = ("left of", "right of", "above", "below")  # number k ^ 1 is the opposite of number k
ASKED = re.compile(rf"Is the (.+) ({'|'.join(SIDES)}) the (.+)\?")
FIX = "make them with `python -m synth source=arranged task=side`, in another split than `unseen`"


@dataclass(frozen=True, slots=True)
class PairSet:
    """Two things, and a picture of the first left of, right of, above and below the second, in this order."""

    first: str
    second: str
    pictures: tuple[Callable[[], Image.Image], ...]

    def caption(self, side: int) -> str:
        return f"The {self.first} is {SIDES[side]} the {self.second}."

    def statement_asked(self, side: int) -> str:
        """As task `side` asks it: yes where the caption is true."""
        return f"Is the {self.first} {SIDES[side]} the {self.second}?"

    def question(self, side: int) -> str:
        """Which of two opposite ways it is, as the paper's evaluation asks."""
        one, other = sorted((side, side ^ 1))
        return f"Is the {self.first} {SIDES[one]} or {SIDES[other]} the {self.second}?"

    def record(self, side: int) -> Record:
        """The picture with that question, and the true caption as its answer."""
        return Record(
            id=f"{self.first}/{self.second}/{SIDES[side]}",
            image_id=f"{id(self)}/{side}",
            question=self.question(side),
            answer=self.caption(side),
            kind="grounding",  # what answers are learned of
            task="side",
            size=self.pictures[side]().size,
            load=self.pictures[side],
        )


def read_sets(records: RecordSet) -> tuple[list[PairSet], int]:
    """Whole sets in the order of their first pictures, and how many pictures belong to none.

    Raises:
        RecordError: a record asks for something else, or no set is whole.
    """
    found: dict[tuple[str, str], list[list[Callable]]] = defaultdict(lambda: [[] for _ in SIDES])
    for record in records:
        asked = ASKED.fullmatch(record.question)
        if asked is None or record.answer not in ("yes", "no") or record.load is None:
            raise RecordError(
                f"record {record.id!r} does not say how two things lie: {record.question!r}",
                why=f"it is of task {record.task!r}, or in other words", fix=FIX,
            )  # fmt: skip
        first, side, second = asked[1], SIDES.index(asked[2]), asked[3]
        side ^= record.answer == "no"
        # One order for both: "the cat is left of the dog" is "the dog is right of the cat".
        key, side = ((first, second), side) if first < second else ((second, first), side ^ 1)
        found[key][side].append(record.image)
    sets = [
        PairSet(*key, pictures) for key, ways in found.items() for pictures in zip(*ways, strict=False)
    ]  # a pair that was drawn twice is two sets
    if not sets:
        raise RecordError("no pair of things is seen all four ways", why=f"of {len(records)} pictures", fix=FIX)
    return sets, len(records) - len(SIDES) * len(sets)


def held_out(sets: Sequence[PairSet], trained: Iterable[PairSet]) -> list[PairSet]:
    """Those of pairs that are not trained.

    Raises:
        RecordError: there are none.
    """
    known = {(each.first, each.second) for each in trained}
    left = [each for each in sets if (each.first, each.second) not in known]
    if not left:
        raise RecordError(
            "every held-out pair of things is trained, too", why=f"of {len(sets)} sets", fix="make more held-out sets"
        )
    return left
