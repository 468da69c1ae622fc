"""How many tokens samples have, and which are too long."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lynx_moe.data import PackedDataset, SampleDataset
from lynx_moe.data.screening import evenly

LONGEST = 5
ROWS = 50


def token_counts(dataset: SampleDataset | PackedDataset, positions: Sequence[int]) -> dict:
    """Tokens of the usable records at `positions`: "prompt" without pictures, "picture", "answer", "all", each with
    min, median, 95% and max; the longest; and for packed rows the same of some rows.
    """
    builder, records = dataset.screen.builder, dataset.records
    counted: dict[str, list[int]] = {"prompt": [], "picture": [], "answer": [], "all": []}
    for position in positions:
        tokens = builder.tokens([records[position]])[0]
        pictures = sum(len(builder.picture_ids(size)) for size in records.sizes(position))
        answer = len(tokens.ids) - tokens.answer_at
        prompt = tokens.answer_at - len(tokens.pictures_at)
        for name, count in (("prompt", prompt), ("picture", pictures), ("answer", answer),
                            ("all", prompt + pictures + answer)):  # fmt: skip
            counted[name].append(count)
    longest = sorted(range(len(positions)), key=lambda k: -counted["all"][k])[:LONGEST]
    found = {name: spread(counts) for name, counts in counted.items() if counts}
    names = records.column("id", [positions[k] for k in longest])
    ids = [{"id": name, "tokens": counted["all"][k]} for name, k in zip(names, longest, strict=True)]
    rows = {}
    if isinstance(dataset, PackedDataset) and len(dataset):
        rows = {"row": spread([len(dataset[row]["input_ids"]) for row in evenly(len(dataset), ROWS)])}
    return {**found, **rows, "longest": ids, "positions": dataset.screen.max_positions}


def longest_rows(dataset: SampleDataset | PackedDataset, positions: Sequence[int], count: int) -> list[int]:
    """The `count` places of the dataset, among `positions` of its records, that hold most tokens."""
    if isinstance(dataset, PackedDataset):
        size = {row: len(dataset.text(row)["input_ids"]) for row in evenly(len(dataset), len(positions))}
        return sorted(size, key=lambda row: -size[row])[:count]
    builder, records = dataset.screen.builder, dataset.records
    size = {k: builder.length(builder.tokens([records[k]])[0], records.sizes(k)) for k in positions}
    return sorted(positions, key=lambda k: -size[k])[:count]


def spread(counts: Sequence[int]) -> dict[str, int]:
    low, middle, high, top = np.percentile(counts, [0, 50, 95, 100])
    return {"min": int(low), "median": int(middle), "p95": int(np.ceil(high)), "max": int(top)}
