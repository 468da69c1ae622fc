"""Pictures of one split that look like pictures of another: a model tested on them has seen them."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from synth.quality.near import THRESHOLD, close_pairs
from synth.quality.tables import Tables

if TYPE_CHECKING:
    from synth.quality.gather import Gathered

_NAMED = 50  # pairs named in the report, closest first; all are counted


def look_alikes(tables: Tables, found: Gathered, threshold: int = THRESHOLD) -> dict:
    """Return how many pairs of pictures look alike, within a split and across splits, and the closest of the latter.

    ``across`` counts pairs by their two splits; ``pairs`` holds [image id, image id, distance in bits].
    """
    splits = sorted({shard.split for shard in tables.shards})
    split_of_shard = np.array([splits.index(shard.split) for shard in tables.shards], np.int64)
    values, row_of = np.unique(found.near, axis=0, return_inverse=True)
    split_of_row = split_of_shard[found.near_shards] if len(found.near) else np.zeros(0, np.int64)
    held_KS = np.zeros((len(values), len(splits)), np.int64)
    np.add.at(held_KS, (row_of, split_of_row), 1)
    example_KS = np.full(held_KS.shape, -1, np.int64)
    example_KS[row_of[::-1], split_of_row[::-1]] = np.arange(len(row_of))[::-1]  # the first row wins
    within, across = Counter(), Counter()
    closest: list[tuple[int, int, int]] = []

    def note(i: np.ndarray, j: np.ndarray, apart: np.ndarray, a: int, b: int) -> None:
        together = held_KS[i, a] * held_KS[j, b]
        across[f"{splits[min(a, b)]} and {splits[max(a, b)]}"] += int(together.sum())
        for k in np.flatnonzero(together)[: 4 * _NAMED]:
            closest.append((int(apart[k]), int(example_KS[i[k], a]), int(example_KS[j[k], b])))
        closest.sort()
        del closest[_NAMED:]

    every = np.arange(len(values))
    for a in range(len(splits)):
        within[splits[a]] += int((held_KS[:, a] * (held_KS[:, a] - 1) // 2).sum())
        for b in range(a + 1, len(splits)):
            note(every, every, np.zeros_like(every), a, b)
    for i, j, apart in close_pairs(values, threshold):
        for a in range(len(splits)):
            within[splits[a]] += int((held_KS[i, a] * held_KS[j, a]).sum())
            for b in range(len(splits)):
                if a != b:
                    note(i, j, apart, a, b)
    return {
        "threshold": threshold, "pictures": len(found.near), "unreadable": found.unreadable,
        "within": dict(within), "across": {pair: n for pair, n in across.items() if n},
        "pairs": _named(tables, found, closest),
    }  # fmt: skip


def _named(tables: Tables, found: Gathered, closest: list[tuple[int, int, int]]) -> list[list]:
    rows = sorted({row for _, one, other in closest for row in (one, other)})
    names: dict[int, str] = {}
    for number in sorted({int(found.near_shards[row]) for row in rows}):
        ids = tables.image_ids(tables.shards[number])
        names |= {row: ids[found.near_rows[row]] for row in rows if found.near_shards[row] == number}
    return [[names[one], names[other], apart] for apart, one, other in closest]
