"""A contact sheet of an evaluation: the numbers as pictures."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from lynx_moe.data import Record
from lynx_moe.grounding import Box, Mask, SheetCell, contact_sheet


def evaluation_sheet(
    result: dict, records: Sequence[Record], path: str | os.PathLike, *, limit: int = 25, columns: int = 5
) -> Path:
    """Draw up to `limit` grounding answers of `result`, evenly spread over the records, on one page at `path`.

    Of several pictures the one is shown that the true boxes lie in.

    Args:
        result: of `evaluate` on these `records`, in this order.
    """
    both = [
        (sample, number)
        for number, sample in enumerate(result["samples"])
        if sample["kind"] == "grounding" and records[number].has_image
    ]
    step = max(1, len(both) / limit)
    chosen = [both[int(k * step)] for k in range(min(limit, len(both)))]
    cells = [
        SheetCell(
            image=records[number].image(records[number].picture),
            asked=sample["question"],
            # Of a thing that is to be outlined only the outline is shown: its box was not asked for.
            truth=[] if "masks" in sample else [Box(*box) for box in sample["true_boxes"]],
            guess=[Box(*box) for box in sample["boxes"]],
            note=sample["answer"],
            truth_masks=[Mask.of_coco(mask) for mask in sample.get("true_masks", ())],
            shown=[*(Box(*box) for box in records[number].question_boxes), *records[number].question_points],
            guess_masks=[Mask.of_coco(mask) for mask in sample.get("masks", ()) if mask],
        )
        for sample, number in chosen
    ]
    return contact_sheet(cells, path, columns=columns)
