"""Thin records so that the question alone does not tell the answer.

Within one shard, and for every task with a small closed set of answers:

* A question about at most one thing ("Is there a dog?") belongs to the stratum of that thing. Within a stratum the
  commoner answers are capped at the highest number at which none has more than two percentage points over its even
  share, one over the number of answers that count. An answer counts when it is kept at least an eighth as often as
  the commonest; rarer ones are kept whole. A stratum with a single answer is dropped. Strata that hold less than a
  tenth of the task's questions are afterwards capped once more, together.
* A question about several things ("Is the dog left of the cat?", "Which is larger, the dog or the cat?") is kept only
  while, for each thing in its place, no answer is ahead of the others by more than one; where the answer is one of the
  things, they are kept only while no thing, and no place, is more than one answer ahead.

What is kept is chosen by random streams named after the records, so it depends on nothing but the shard itself.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

COUNTS = 4  # for measuring, an answer counts when it is given at least a quarter as often as the commonest one
_CAPPED = 8  # for thinning, an eighth: what counts when measured was then evened out in every shard, by a safe margin
_POINTS = 2  # percentage points that an answer may have over its even share
_HEAVY = 10  # a stratum with a tenth of all questions is evened out on its own only


@dataclass(frozen=True, slots=True)
class Asked:
    """What thinning needs of a record: its id, task, answer, and the things its question is about, in their order."""

    id: str
    task: str
    answer: str
    about: tuple[str, ...]


def counting(answers: Counter) -> list[str]:
    """Return the answers given at least a quarter as often as the commonest, commonest first."""
    most = max(answers.values(), default=0)
    return [answer for answer, n in answers.most_common() if COUNTS * n >= most]


def even(asked: Iterable[Asked], stream: str) -> set[str]:
    """Return the ids of the records to keep, of one shard's records of tasks with closed answers.

    Args:
        asked: the records, in any order.
        stream: name of the random stream; each record draws its own number from it.
    """
    by_task = defaultdict(list)
    for row in asked:
        by_task[row.task].append((random.Random(f"{stream}/even/{row.id}").random(), row.id, row))
    kept: set[str] = set()
    for drawn in by_task.values():
        rows = [row for *_, row in sorted(drawn, key=lambda entry: entry[:2])]
        single = [row for row in rows if len(row.about) < 2]
        kept |= {row.id for row in _even_strata(single)}
        kept |= {row.id for row in _even_places([row for row in rows if len(row.about) >= 2])}
    return kept


def _even_strata(rows: list[Asked]) -> list[Asked]:
    strata = defaultdict(list)
    for row in rows:
        strata[row.about].append(row)
    heavy, light = [], []
    for members in strata.values():
        (heavy if _HEAVY * len(members) >= len(rows) else light).extend(_capped(members))
    return heavy + _capped(light)


def _capped(rows: list[Asked]) -> list[Asked]:
    """Keep the first rows of each answer, up to the cap; of one answer alone, none."""
    cap = _cap(Counter(row.answer for row in rows))
    given: Counter = Counter()
    kept = []
    for row in rows:
        given[row.answer] += 1
        if given[row.answer] <= cap:
            kept.append(row)
    return kept


def _cap(answers: Counter) -> int:
    """The highest cap under which no answer is too common, in whole numbers so that every machine agrees."""
    for cap in range(max(answers.values(), default=0), 0, -1):
        kept = [min(n, cap) for n in answers.values()]
        count = sum(_CAPPED * n >= cap for n in kept)
        if count > 1 and 100 * count * cap <= (100 + _POINTS * count) * sum(kept):
            return cap
    return 0


def _even_places(rows: list[Asked]) -> list[Asked]:
    """Keep rows greedily; go over those left out again until none fits any more."""
    answers = sorted({row.answer for row in rows if row.answer not in row.about})
    given: Counter = Counter()
    kept: list[Asked] = []
    waiting, before = rows, -1
    while len(kept) != before:
        before, left = len(kept), []
        for row in waiting:
            mine, others = _tallies(row, answers)
            if all(given[one] <= min(map(given.__getitem__, rest)) for one, rest in zip(mine, others, strict=True)):
                given.update(mine)
                kept.append(row)
            else:
                left.append(row)
        waiting = left
    return kept


def _tallies(row: Asked, answers: list[str]) -> tuple[list[tuple], list[list[tuple]]]:
    """The tallies that keeping ``row`` raises by one, and for each those that it must not get ahead of."""
    if row.answer in row.about:  # a choice: each thing is right or wrong, and so is each place
        right = row.about.index(row.answer)
        keys = [(kind, key, k == right) for k, name in enumerate(row.about) for kind, key in (("it", name), ("at", k))]
        return keys, [[(kind, key, not won)] for kind, key, won in keys]
    places = [(k, name) for k, name in enumerate(row.about)] + [("any", "")]
    mine = [(*place, row.answer) for place in places]
    return mine, [
        [(*place, other) for other in answers if other != row.answer] or [(*place, row.answer)] for place in places
    ]
