"""What a well-formed box looks like, character by character: decoding can be held to it.

A grammar is alternatives of parts in a row: fixed text, numbers of a range, and free labels. It is followed as a
nondeterministic automaton, because two alternatives may begin alike.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from lynx_moe.errors import DialectError
from lynx_moe.grounding import Box

if TYPE_CHECKING:
    from lynx_moe.families.dialects.base import Dialect

LONGEST_LABEL = 120  # characters after which a label must end; one token may overshoot
NO_LABEL = frozenset('"\\<>[]{};\x7f') | set(map(chr, range(32)))
NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?")
SAMPLE = "something"


@dataclass(frozen=True, slots=True)
class Number:
    """Multiples `low` to `high` of a power of ten, in one spelling each.

    Args:
        width: whole numbers are filled up with zeros to so many digits.
        decimals: digits after the point, always written.
        after: place, among the numbers of the box so far, of one that this one must be larger than; None: of none.
        may_equal: then it may also be the same.
    """

    low: int
    high: int
    width: int = 0
    decimals: int = 0
    after: int | None = None
    may_equal: bool = False

    def spell(self, value: int) -> str:
        return f"{value / 10**self.decimals:.{self.decimals}f}" if self.decimals else str(value).zfill(self.width)

    def fits(self, value: int, earlier: tuple[int, ...]) -> bool:
        """Whether the number can be `value` behind the numbers `earlier`."""
        return self.after is None or value > earlier[self.after] - self.may_equal


@dataclass(frozen=True, slots=True)
class Label:
    """Some characters, none of which could end it."""

    def takes(self, char: str) -> bool:
        return char not in NO_LABEL


@dataclass(frozen=True, slots=True)
class Again:
    """Another box must follow at once: as behind an opening, or `inside` of a list that is open already."""

    inside: bool = False


Part = str | Number | Label | Again
FULL = "full"  # what a label that must end now has instead of the characters so far


@dataclass(frozen=True, slots=True)
class Place:
    """Where in one alternative a text stands: the parts to come, what is written of the first, the numbers before."""

    parts: tuple[Part, ...]
    written: str = ""
    numbers: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class State:
    """Where a text stands: outside of boxes (`places` is None), or in one.

    `tail` are its last characters as far as they could begin something; `skipping` says that no box can open.
    """

    tail: str = ""
    skipping: bool = False
    places: frozenset[Place] | None = None

    @property
    def in_box(self) -> bool:
        return self.places is not None


@dataclass(frozen=True, slots=True)
class Grammar:
    """Well-formed boxes of one dialect on a picture of one size.

    Args:
        opening: the text from which on a box must follow.
        alternatives: what may follow it; the last part of each is fixed text, or `Again` behind one.
        skips: two marks between which nothing is a box, or None.
        heads: how many parts of each alternative stand in front of a whole list, and not of each box in it.
        word: a word that may stand anywhere and is no box, also where the opening is a part of it; "" for none.
    """

    opening: str
    alternatives: tuple[tuple[Part, ...], ...]
    skips: tuple[str, str] | None = None
    heads: int = 0
    word: str = ""

    def advance(self, state: State, text: str) -> State | None:
        """The state after `text`, or None if a box in it is not well formed.

        A box ends at the first character with which one alternative is complete.
        """
        if state.in_box:
            state = State(places=frozenset(map(_limited, state.places)))
        for char in text:
            state = self.step(state, char)
            if state is None:
                return None
        return state

    def step(self, state: State, char: str) -> State | None:
        """`advance` by one character of a token; where in the token it stands makes no difference."""
        if state.in_box:
            places = {after for place in state.places for after in _after(place, char)}
            if any(not place.parts for place in places):
                return State()
            again = next((place.parts[0] for place in places if isinstance(place.parts[0], Again)), None)
            if again is not None:
                return self._inside if again.inside else self._opened
            return State(places=frozenset(places)) if places else None
        tail = state.tail + char
        if state.skipping:
            return State() if tail.endswith(self.skips[1]) else State(_beginning(tail, self.skips[1:]), skipping=True)
        if tail.endswith(self.opening):
            rest = self.word.partition(self.opening)[2]
            return State(places=self._opened.places | {Place((rest,))}) if rest else self._opened
        if self.skips and tail.endswith(self.skips[0]):
            return State(skipping=True)
        return State(_beginning(tail, (self.opening, *(self.skips or ())[:1])))

    @property
    def _opened(self) -> State:
        return State(places=frozenset(map(Place, self.alternatives)))

    @property
    def _inside(self) -> State:
        return State(places=frozenset(Place(parts[self.heads :]) for parts in self.alternatives))

    def alike(self, state: State) -> State:
        """One state for all from which the same can follow: in a label that may go on its length does not matter."""
        if not state.in_box:
            return state
        return State(
            places=frozenset(
                replace(p, written=p.written[:1]) if _in_label(p) else p for p in map(_limited, state.places)
            )
        )

    def follows(self, state: State) -> set[str] | None:
        """Characters that can come next in an open box; None where a label takes almost any."""
        places = list(map(_limited, state.places))
        if any(map(_in_label, places)):
            return None
        return set().union(*map(_next_characters, places))


def _beginning(tail: str, wanted: tuple[str, ...]) -> str:
    """The longest end of `tail` with which one of `wanted` begins."""
    longest = max(map(len, wanted)) - 1
    return next((tail[-n:] for n in range(min(longest, len(tail)), 0, -1) if tail[-n:] in {w[:n] for w in wanted}), "")


def _in_label(place: Place) -> bool:
    """In, or in front of, a label that can take a character."""
    return isinstance(place.parts[0], Label) and place.written != FULL


def _limited(place: Place) -> Place:
    """A label that has become long may not take another token."""
    return replace(place, written=FULL) if _in_label(place) and len(place.written) >= LONGEST_LABEL else place


def _after(place: Place, char: str) -> list[Place]:
    """Where one character leads from `place`: to one place, or two, or none."""
    parts, written = place.parts, place.written + char
    if isinstance(parts[0], str):
        if parts[0] == written:
            return [Place(parts[1:], "", place.numbers)]
        return [Place(parts, written, place.numbers)] if parts[0].startswith(written) else []
    if isinstance(parts[0], Label):
        found = _after(Place(parts[1:], "", place.numbers), char) if place.written else []
        if place.written != FULL and parts[0].takes(char):
            found.append(Place(parts, "." * min(len(written), LONGEST_LABEL), place.numbers))
        return found
    beginnings, values = spellings(parts[0], place.numbers)
    found = [Place(parts, written, place.numbers)] if written in beginnings else []
    if place.written in values:
        found += _after(_behind_number(place, values[place.written]), char)
    return found


def _behind_number(place: Place, value: int) -> Place:
    rest = place.parts[1:]
    needed = any(isinstance(part, Number) for part in rest)
    return Place(rest, "", (*place.numbers, value) if needed else ())


def _next_characters(place: Place) -> set[str]:
    part = place.parts[0]
    if isinstance(part, str):
        return {part[len(place.written)]}
    if isinstance(part, Label):
        return _next_characters(replace(place, parts=place.parts[1:], written=""))
    beginnings, values = spellings(part, place.numbers)
    found = {char for char in "0123456789." if place.written + char in beginnings}
    return found | (
        _next_characters(_behind_number(place, values[place.written])) if place.written in values else set()
    )


@lru_cache(maxsize=4096)
def spellings(number: Number, earlier: tuple[int, ...]) -> tuple[frozenset[str], dict[str, int]]:
    """Every beginning of a spelling of `number` behind `earlier`, and the value of each whole one."""
    values = {number.spell(v): v for v in range(number.low, number.high + 1) if number.fits(v, earlier)}
    return frozenset(text[:n] for text in values for n in range(1, len(text) + 1)), values


def derive(
    dialect: Dialect,
    size: tuple[int, int],
    *,
    may_equal: bool = False,
    skips: tuple[str, str] | None = None,
    between: str | None = None,
) -> Grammar:
    """The grammar of a dialect that writes four numbers in the order of corners (x and y in either order).

    The whole picture is encoded, whose numbers are the smallest and largest there are. A box is open from the last
    mark in front of its numbers on; where there is no mark, from the text in front of them. Labels in front of that are
    free.

    Args:
        between: what may stand between two boxes of one list; None where each stands alone.

    Raises:
        DialectError: the spelling is not of that kind.
    """
    whole = Box(0, 0, *size)
    texts = dict.fromkeys(dialect.encode(box, size) for box in (whole, replace(whole, label=SAMPLE)))
    found = [_parts(dialect, text, size, may_equal) for text in texts]
    opening = os.path.commonprefix([head[::-1] for head, _ in found])[::-1]
    if not opening:
        raise _not_of_that_kind(dialect, list(texts)[-1])
    mark = next((match[0] for pattern in _patterns(dialect) if (match := pattern.match(opening))), opening)
    rest = (opening[len(mark) :],) if mark != opening else ()
    lists = [parts for _, parts in found]
    if between is not None:
        lists += [(*parts[:7], between, Again(inside=True)) for parts in lists]
    return Grammar(mark, tuple(dict.fromkeys((*rest, *parts) for parts in lists)), skips, heads=len(rest))


def _parts(dialect: Dialect, text: str, size: tuple[int, int], may_equal: bool) -> tuple[str, tuple[Part, ...]]:
    """What stands in front of the numbers, from the last mark on, and the parts from the first number on."""
    place = dialect.coordinates.search(text)
    numbers = list(NUMBER.finditer(text, *place.span())) if place else []
    if len(numbers) != 4 or numbers[-1].end() == len(text):
        raise _not_of_that_kind(dialect, text)
    spelled = [match[0] for match in numbers]
    decimals = len(spelled[0].partition(".")[2])
    width = len(spelled[0]) if spelled[0].startswith("0") and not decimals else 0
    values = [round(float(each) * 10**decimals) for each in spelled]

    def reads(changed: dict[int, int]) -> bool:
        """Whether it is a box too with these of its numbers."""
        written, begin = [], 0
        for k, match in enumerate(numbers):
            number = Number(0, 0, width, decimals).spell(changed.get(k, values[k]))
            written, begin = [*written, text[begin : match.start()], number], match.end()
        return len(dialect.decode("".join(written) + text[begin:], size).boxes) == 1

    parts: list[Part] = []
    for k, match in enumerate(numbers):
        near, far = k % 2, k % 2 + 2
        low, high = values[near], values[far]
        if not may_equal:
            # The edges of a padded or cropped picture lie between two numbers, and the outer one may begin or end a
            # box that has a part inside.
            outer = low - reads({near: low - 1}), high + reads({far: high + 1})
            if k < 2:
                low, high = outer[0], high - (not reads({near: high, far: high + 1}))
            else:
                low, high = low + (not reads({near: low - 1, far: low})), outer[1]
        parts.append(Number(low, high, width, decimals, None if k < 2 else k - 2, may_equal))
        parts.append(text[match.end() : numbers[k + 1].start() if k < 3 else len(text)])
    if SAMPLE in parts[-1]:
        before, _, behind = parts.pop().partition(SAMPLE)
        # A label without an end cannot be told from the text that goes on: the box ends in front of it.
        parts += [before, Label(), behind] if behind else [before.rstrip()]
    head = text[: numbers[0].start()].rpartition(SAMPLE)[2]
    return head[_last_mark(dialect, head) :], tuple(parts)


def _last_mark(dialect: Dialect, text: str) -> int:
    """Where the last whole mark in `text` begins; 0 if there is none."""
    return max((match.start() for pattern in _patterns(dialect) for match in pattern.finditer(text)), default=0)


def _patterns(dialect: Dialect) -> list[re.Pattern[str]]:
    return [re.compile(re.escape(mark)) if isinstance(mark, str) else mark for mark in dialect.marks]


def _not_of_that_kind(dialect: Dialect, text: str) -> DialectError:
    return DialectError(
        f"no grammar can be derived for the dialect {dialect.name!r}",
        why=f"{text!r} does not have four numbers between fixed texts",
        fix="write a method `grammar` for it, or decode without constraint",
    )
