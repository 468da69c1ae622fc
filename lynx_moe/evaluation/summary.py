"""Rows to claims: every number with its interval, every change with its flips and McNemar's test."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from lynx_moe.evaluation.calibration import calibration_report
from lynx_moe.evaluation.confidence import SAME
from lynx_moe.evaluation.protocols.base import Protocol, Row
from lynx_moe.evaluation.retention import mcnemar_p
from lynx_moe.evaluation.robustness import Changed
from lynx_moe.interval import bootstrap_interval, without_intervals

LEVEL = 0.95
SHARE_DRAWS = 2000
# Summing up again is slow (AP over thousands of pictures), so the more rows, the fewer draws; never by the clock,
# which would give other ends on another day.
ROWS_TO_SUM_UP, FEWEST, MOST = 200_000, 20, 500
UNLIMITED = float("inf")


def result_of(protocol: Protocol, rows: Sequence[Row], faults: dict[str, int]) -> dict:
    """Numbers over `rows`, with the headline's interval; plain enough for JSON.

    Returns:
        `name`, `headline`, `value`, `interval` (low, high; None where it cannot be told) and `interval_by`, in words;
        `summary`, all that the protocol says; `calibration`, of answers' first boxes; `faults`, and
        `errors`, what could not be read in answers, by kind.
    """
    protocol = afresh(protocol)
    summary = protocol.summarise(rows)
    value = summary.get(protocol.headline)
    interval, how = interval_of(protocol, rows, summary)
    errors: dict[str, int] = {}
    for row in rows:
        for kind, count in row.errors.items():
            errors[kind] = errors.get(kind, 0) + count
    return {
        "name": protocol.name,
        "headline": protocol.headline,
        "higher_is_better": protocol.higher_is_better,
        "n": len(rows),
        "value": value,
        "interval": interval,
        "interval_by": how,
        "summary": summary,
        "calibration": calibration_report(*sure_and_right(rows)),
        "faults": faults,
        "errors": dict(sorted(errors.items())),
        "citation": protocol.citation,
    }


def sure_and_right(rows: Sequence[Row]) -> tuple[list[float], list[bool]]:
    """Confidence of each answer's first box, and whether it was right (IoU of at least 0.5), where rows say both."""
    told = [row for row in rows if row.confidences and "iou" in row.numbers]
    return [row.confidences[0] for row in told], [row.numbers["iou"] >= SAME for row in told]


def afresh(protocol: Protocol) -> Protocol:
    """The same settings, and no memory of what items there are: rows that are drawn twice have ids of their own."""
    if isinstance(protocol, Changed):
        return replace(protocol, inner=replace(protocol.inner))
    return replace(protocol)


def interval_of(
    protocol: Protocol, rows: Sequence[Row], summary: dict
) -> tuple[tuple[float, float] | None, str | None]:
    """95% bootstrap interval of the headline over pictures, and how it was found, in words.

    Where the headline is a mean over rows, rows are drawn; else the protocol's own interval is taken, and where it has
    none, drawn rows are summed up again.
    """
    value = summary.get(protocol.headline)
    if value is None:
        return None, None
    values = values_of(protocol, rows, value)
    if values is not None:
        if set(values) in ({0.0}, {1.0}):
            # A bootstrap of equal verdicts has no width, however few they are.
            end = largest_share(0, len(by_picture(rows)), (1 + LEVEL) / 2)
            return (0.0, end) if value == 0 else (1 - end, 1.0), "Clopper and Pearson, over pictures"
        return share_interval(values, rows), f"{SHARE_DRAWS} draws of pictures"
    own = summary.get("interval")
    if isinstance(own, dict):
        own = own.get(protocol.headline) or ((own["low"], own["high"]) if "low" in own else None)
    if own:
        return (float(own[0]), float(own[1])), "the protocol's own"
    return summed_interval(rows, lambda drawn: protocol.summarise(drawn).get(protocol.headline))


def values_of(protocol: Protocol, rows: Sequence[Row], value: float) -> list[float] | None:
    """One number per row that the headline is the mean of, if there is one: `right`, or `numbers` under its name.

    An F1 may happen to equal the accuracy, so the mean must be the headline of parts of the rows too.
    """
    parts = [rows, *(rows[k::3] for k in range(3) if len(rows) >= 3)]
    for number in (lambda row: row.right, lambda row: row.numbers.get(protocol.headline)):
        if all(number(row) is not None for row in rows) and all(
            np.isclose(found, np.mean([number(row) for row in part]), rtol=0, atol=1e-12)
            for part, found in ((part, headline_of(protocol, part, value, rows)) for part in parts)
            if found is not None
        ):
            return [float(number(row)) for row in rows]
    return None


def headline_of(protocol: Protocol, part: Sequence[Row], value: float, rows: Sequence[Row]) -> float | None:
    if part is rows:
        return value
    with without_intervals():
        return protocol.summarise(part).get(protocol.headline)


def share_interval(values: Sequence[float], rows: Sequence[Row]) -> tuple[float, float] | None:
    """Interval of the mean of `values`, one per row, when pictures are drawn and rows of one picture stay together."""
    places = by_picture(rows)
    sums_P = np.array([sum(values[k] for k in place) for place in places])
    sizes_P = np.array([len(place) for place in places])
    found = bootstrap_interval(
        lambda times_P: float(times_P @ sums_P / (times_P @ sizes_P)),
        len(places),
        LEVEL,
        SHARE_DRAWS,
        UNLIMITED,
    )
    return found and found[:2]


def summed_interval(
    rows: Sequence[Row], number: Callable[[list[Row]], float | None]
) -> tuple[tuple[float, float] | None, str | None]:
    """Interval of any `number` of rows, by summing up drawn pictures again."""
    places = by_picture(rows)
    draws = max(FEWEST, min(MOST, ROWS_TO_SUM_UP // max(1, len(rows))))

    def of_drawn(times_P: np.ndarray) -> float | None:
        with without_intervals():
            return number(drawn(rows, places, times_P))

    found = bootstrap_interval(of_drawn, len(places), LEVEL, draws, UNLIMITED)
    return (None, None) if found is None else (found[:2], f"{found[2]} draws of pictures, each summed up anew")


def drawn(rows: Sequence[Row], places: Sequence[Sequence[int]], times_P: np.ndarray) -> list[Row]:
    """The rows of the pictures that were drawn, under ids of their own where a picture was drawn again."""
    found = []
    for place, times in zip(places, times_P.tolist(), strict=True):
        for again in range(times):
            found += [replace(rows[k], id=f"{rows[k].id}#{again}") if again else rows[k] for k in place]
    return found


def by_picture(rows: Sequence[Row]) -> list[list[int]]:
    """Numbers of the rows that belong together: those that share a picture, also by way of others; one that names none
    stands alone.
    """
    first: dict[str, int] = {}  # of each picture the first row that shows it
    head = list(range(len(rows)))

    def top(number: int) -> int:
        while head[number] != number:
            head[number] = head[head[number]]
            number = head[number]
        return number

    for number, row in enumerate(rows):
        for name in filter(None, row.picture.split("\n")):
            one, other = sorted((top(first.setdefault(name, number)), top(number)))
            head[other] = one
    places: dict[int, list[int]] = {}
    for number in range(len(rows)):
        places.setdefault(top(number), []).append(number)
    return list(places.values())


def change_of(protocol: Protocol, before: Sequence[Row], after: Sequence[Row]) -> dict:
    """The same items answered by two models, pair by pair.

    Returns:
        `n` pairs and `unpaired` rows, which count nowhere here; the headline `before` and `after` on the pairs, and
        `change` with its `interval`; `lost`, `won`, `flips` and `mcnemar_p` over the pairs that are right or wrong;
        `same_text`, the share of pairs whose answers are equal to the letter; and `by_group`.
    """
    protocol = afresh(protocol)
    old, new = ({row.id: row for row in rows} for rows in (before, after))
    ids = [row.id for row in before if row.id in new]
    pairs = [(old[key], new[key]) for key in ids]
    firsts, seconds = [a for a, _ in pairs], [b for _, b in pairs]
    values = [protocol.summarise(rows).get(protocol.headline) if rows else None for rows in (firsts, seconds)]
    change, interval, how = None, None, None
    if None not in values:
        change = values[1] - values[0]
        interval, how = change_interval(protocol, firsts, seconds, values)
    groups: dict[str, list[tuple[Row, Row]]] = {}
    for pair in pairs:
        groups.setdefault(pair[0].group, []).append(pair)
    texts = [a.answers == b.answers for a, b in pairs if a.answers or b.answers]
    return {
        "name": protocol.name,
        "headline": protocol.headline,
        "higher_is_better": protocol.higher_is_better,
        "n": len(pairs),
        "unpaired": len(old.keys() ^ new.keys()),
        "before": values[0],
        "after": values[1],
        "change": change,
        "interval": interval,
        "interval_by": how,
        **flips_of(pairs),
        "same_text": sum(texts) / len(texts) if texts else None,
        "by_group": {name: {**flips_of(group), "n": len(group)} for name, group in sorted(groups.items()) if name},
    }


def change_interval(
    protocol: Protocol, before: list[Row], after: list[Row], values: Sequence[float]
) -> tuple[tuple[float, float] | None, str | None]:
    """Paired: what is drawn is a picture with both models' answers, so what both find hard cancels out."""
    each = [values_of(protocol, rows, value) for rows, value in zip((before, after), values, strict=True)]
    if None not in each:
        changes = [b - a for a, b in zip(*each, strict=True)]
        return share_interval(changes, before), f"{SHARE_DRAWS} draws of pictures, paired"
    # Drawn copies get a mark behind their id, so ids are numbered first: then the mark is ours alone.
    numbered = [replace(row, id=str(k)) for k, row in enumerate(before)]

    def number(chosen: list[Row]) -> float | None:
        others = [replace(after[int(row.id.partition("#")[0])], id=row.id) for row in chosen]
        ends = [protocol.summarise(rows).get(protocol.headline) for rows in (chosen, others)]
        return None if None in ends else ends[1] - ends[0]

    interval, how = summed_interval(numbered, number)
    return interval, how and f"{how}, paired"


def flips_of(pairs: Sequence[tuple[Row, Row]]) -> dict:
    """What turned from right to wrong ("lost") and from wrong to right ("won"), by id, with McNemar's exact p.

    McNemar's test takes questions for independent, which those about one picture are not: `pictures_p` is the same test
    over pictures, by whether more was lost or won on each. `lost_at_most` is the share of pictures on which something
    may be lost beyond these: a bootstrap of no flips says +-0 of five pictures as of five thousand, this does not.
    """
    judged = [(a, b) for a, b in pairs if a.right is not None and b.right is not None]
    lost = [a.id for a, b in judged if a.right and not b.right]
    won = [a.id for a, b in judged if b.right and not a.right]
    if not judged:
        names = ("lost", "won", "lost_at_most", "mcnemar_p", "pictures_p", "right_change", "right_interval")
        return {"judged": 0, **dict.fromkeys(names), "flips": []}
    turns = [float(b.right) - float(a.right) for a, b in judged]
    firsts = [a for a, _ in judged]
    places = by_picture(firsts)
    nets = [sum(turns[k] for k in place) for place in places]
    with_loss = sum(any(turns[k] < 0 for k in place) for place in places)
    return {
        "judged": len(judged),
        "lost": len(lost),
        "won": len(won),
        "lost_at_most": largest_share(with_loss, len(places)),
        "mcnemar_p": mcnemar_p(len(lost), len(won)),
        "pictures_p": mcnemar_p(sum(net < 0 for net in nets), sum(net > 0 for net in nets)),
        "right_change": sum(turns) / len(judged),
        "right_interval": share_interval(turns, firsts),
        "flips": [{"id": key, "change": "lost"} for key in lost] + [{"id": key, "change": "won"} for key in won],
    }


def largest_share(count: int, n: int, level: float = LEVEL) -> float:
    """The one-sided upper end of a share of which `count` of `n` were seen (Clopper and Pearson 1934).

    >>> round(largest_share(0, 59), 4), round(largest_share(0, 1), 4)
    (0.0495, 0.95)
    """
    low, high = count / n, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if at_most(count, n, middle) > 1 - level else (low, middle)
    return high


def at_most(count: int, n: int, share: float) -> float:
    """How likely at most `count` of `n` are when each is with probability `share`."""
    if count >= n or share <= 0:
        return 1.0
    if share >= 1:
        return 0.0
    logs = [
        math.lgamma(n + 1)
        - math.lgamma(k + 1)
        - math.lgamma(n - k + 1)
        + k * math.log(share)
        + (n - k) * math.log1p(-share)
        for k in range(count + 1)
    ]
    return math.fsum(map(math.exp, logs))
