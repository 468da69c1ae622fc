"""What two readings of one picture agree on: the only objects of a teacher that are believed.

No source says how the paper's data was filtered (the prompt and the filter are not known); this filter is ours.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from synth.scene import Box, Obj, iou

_SAME_LINE = 0.9  # overlap at which one reading has listed one object twice


@dataclass(frozen=True, slots=True)
class Listed:
    """One object as one reading lists it; ``box`` in original pixels, ``colour`` may be empty."""

    name: str
    box: Box
    colour: str = ""


def match(first: Sequence[Listed], second: Sequence[Listed], min_iou: float) -> list[tuple[int, int, float]]:
    """Return (index, index, overlap) of objects of the same name, the best overlaps first, each object once."""
    pairs = [
        (-iou(a.box, b.box), i, j) for i, a in enumerate(first) for j, b in enumerate(second) if a.name == b.name
    ]  # fmt: skip
    taken: tuple[set[int], set[int]] = (set(), set())
    found = []
    for overlap, i, j in sorted(pairs):
        if -overlap >= min_iou and i not in taken[0] and j not in taken[1]:
            taken[0].add(i)
            taken[1].add(j)
            found.append((i, j, -overlap))
    return found


def without_repeats(listed: Sequence[Listed], rejected: Counter) -> list[Listed]:
    """Leave out what a reading lists again: models that write boxes tend to repeat themselves."""
    kept: list[Listed] = []
    for one in listed:
        if any(one.name == other.name and iou(one.box, other.box) >= _SAME_LINE for other in kept):
            rejected["object: listed twice"] += 1
        else:
            kept.append(one)
    return kept


def agreed(
    first: Sequence[Listed], second: Sequence[Listed], unreadable: set[str], min_iou: float, min_score: float,
    rejected: Counter,
) -> list[Obj]:  # fmt: skip
    """Return the objects that both readings list, from left to right, each box the mean of the two.

    ``confidence`` of an object is the overlap of its two boxes times the share of all listed objects that found a
    partner. Of a name with an object that is not kept, or one in ``unreadable`` (its box could not be read), nothing
    is kept: neither "the cat" nor "how many cats" could be answered truly. So it is with colours.
    """
    pairs = match(first, second, min_iou)
    listed = len(first) + len(second)
    share = 2 * len(pairs) / listed if listed else 0.0
    rejected["object: in one reading only"] += listed - 2 * len(pairs)
    counted = Counter(one.name for one in (*first, *second))
    sure = [(first[i], second[j], overlap * share) for i, j, overlap in pairs if overlap * share >= min_score]
    rejected["object: score too low"] += len(pairs) - len(sure)
    kept = Counter(a.name for a, _, _ in sure)
    certain = [entry for entry in sure if 2 * kept[entry[0].name] == counted[entry[0].name]]
    certain = [entry for entry in certain if entry[0].name not in unreadable]
    rejected["object: same name as a refused one"] += len(sure) - len(certain)
    coloured = {
        name for name in kept if all(a.colour and a.colour == b.colour for a, b, _ in certain if a.name == name)
    }
    objects = [
        Obj(
            id=0, name=a.name, box=tuple((x + y) / 2 for x, y in zip(a.box, b.box, strict=True)), confidence=score,
            attributes={"colour": a.colour} if a.name in coloured else {},
        )
        for a, b, score in certain
    ]  # fmt: skip
    objects.sort(key=lambda o: (o.box, o.name))
    for number, obj in enumerate(objects):
        obj.id = number
    return objects
