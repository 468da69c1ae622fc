"""Verdicts on scores, by strict inequality, and averages over verdicts with chance levels and intervals."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from lynx_moe.evaluation.protocols.base import Item, Reply, Row, Score, Write
from lynx_moe.interval import mean_interval

NO_SCORE = "score is not a number"
TIE = "scores that are the same, which is a loss"


def scores_of(replies: Sequence[Reply]) -> list[float]:
    """One number per reply; NaN, which is greater and less than nothing, where there is none."""
    return [math.nan if reply.score is None else float(reply.score) for reply in replies]


def first_wins(scores: Sequence[float]) -> bool:
    """Whether the first score is greater than every other; a tie or a NaN is a loss.

    >>> first_wins([0.5, 0.4]), first_wins([0.5, 0.5]), first_wins([0.5, math.nan])
    (True, False, False)
    """
    return all(scores[0] > other for other in scores[1:])


def scored_row(item: Item, scores: Sequence[float], numbers: Mapping[str, bool | float], right: bool | None) -> Row:
    """The row of an item that was scored; scores that are no numbers are counted, and ties of one that was lost."""
    missing = sum(map(math.isnan, scores))
    tied = right is False and not missing and len(set(scores)) < len(scores)
    return Row(
        id=item.id, group=item.group, truth=item.truth, right=right, scores=list(scores),
        asked=[ask.text if isinstance(ask, Score) else ask.record.question for ask in item.asks],
        numbers={name: float(value) for name, value in numbers.items()},
        errors={kind: count for kind, count in ((NO_SCORE, missing), (TIE, int(tied))) if count},
    )  # fmt: skip


def written_row(item: Item, replies: Sequence[Reply], numbers: Mapping[str, bool | float], right: bool | None) -> Row:
    """The row of an item that was answered in words."""
    return Row(
        id=item.id, group=item.group, truth=item.truth, right=right,
        asked=[ask.record.question if isinstance(ask, Write) else ask.text for ask in item.asks],
        answers=[reply.text for reply in replies],
        numbers={name: float(value) for name, value in numbers.items()},
    )  # fmt: skip


def mean(values: Iterable[float]) -> float | None:
    """The mean; None of nothing."""
    values = list(values)
    return math.fsum(values) / len(values) if values else None


def averages(
    rows: Sequence[Row],
    chance: Mapping[str, float | None],
    *,
    subsets: Mapping[str, Callable[[Row], Iterable[str]]] | None = None,
) -> dict:
    """The mean of each named number over the rows that have it: micro averages, every item weighs the same.

    Args:
        chance: the numbers' names, each with what guessing gets (None: no such level).
        subsets: more ways to divide the rows than `Row.group`: name of the way -> a row's subsets.

    Returns:
        `n`, each number, `chance`, `interval` (95 %, by number), `by_group` and one entry per further way, `errors`
        summed over rows.
    """
    found: dict = {"n": len(rows), **_means(rows, chance)}
    found["chance"] = dict(chance)
    found["interval"] = {name: interval_of(rows, name) for name in chance}
    ways = {"by_group": lambda row: [row.group], **(subsets or {})}
    for way, names_of in ways.items():
        found[way] = divided(rows, chance, names_of)
    found["errors"] = dict(sum((Counter(row.errors) for row in rows), Counter()))
    return found


def divided(rows: Sequence[Row], names: Iterable[str], subsets_of: Callable[[Row], Iterable[str]]) -> dict[str, dict]:
    """`n` and the means of each subset, by name; a row may be in several."""
    parts: dict[str, list[Row]] = {}
    for row in rows:
        for subset in subsets_of(row):
            parts.setdefault(subset, []).append(row)
    return {subset: {"n": len(parts[subset]), **_means(parts[subset], names)} for subset in sorted(parts)}


def interval_of(rows: Sequence[Row], name: str) -> list[float] | None:
    """95 % interval of a number's mean; None where rows share pictures: then pictures are to be drawn, which is the
    run's part.
    """
    having = [row for row in rows if name in row.numbers]
    pictures = [picture for row in having for picture in row.truth.get("images", [row.id])]
    if not having or len(set(pictures)) < len(pictures):
        return None
    return list(mean_interval([row.numbers[name] for row in having]))


def _means(rows: Sequence[Row], names: Iterable[str]) -> dict[str, float | None]:
    return {name: mean(row.numbers[name] for row in rows if name in row.numbers) for name in names}
