"""The contact sheet of targets: records of every task, on the pictures as the model sees them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from lynx_moe.data import Record, RecordSet, SampleBuilder, question_text, target_text
from lynx_moe.data.prompts import final_answer
from lynx_moe.doctor.findings import Findings
from lynx_moe.doctor.seen import Seen, seen
from lynx_moe.errors import LynxError
from lynx_moe.grounding import SheetCell, contact_sheet

PICTURE_PIXELS = 320
DRAWN_FROM = 5000  # records


def of_every_task(records: RecordSet, count: int) -> list[int]:
    """Positions of up to `count` records with a picture, in turn of each task, grounding tasks first; as far as there
    are enough, each on a picture of its own. The same for everybody.
    """
    tasks, kinds = records.column("task"), records.column("kind")
    by_task: dict[tuple[bool, str], list[int]] = {}
    for position in random.Random(0).sample(range(len(records)), min(len(records), DRAWN_FROM)):
        if records.picture(position) >= 0:
            by_task.setdefault((kinds[position] != "grounding", tasks[position]), []).append(position)
    chosen: list[int] = []
    used: set[int] = set()
    while len(chosen) < count and any(by_task.values()):
        for _, waiting in sorted(by_task.items()):
            if waiting and len(chosen) < count:
                fresh = next((k for k, position in enumerate(waiting) if records.picture(position) not in used), 0)
                chosen.append(waiting.pop(fresh))
                used.add(records.picture(chosen[-1]))
    return chosen


def draw_targets(
    builder: SampleBuilder, records: Sequence[Record], path: Path, findings: Findings
) -> dict[str, str | int | list[str]]:
    """Writes the sheet: what is asked above each picture, the target's text below, and the boxes that this text spells
    where the model will find them.
    """
    cells, how = [], []
    for record in records:
        try:
            cell, view = target_cell(builder, record)
        except LynxError as problem:
            findings.note("unreadable", record.id, problem.message)
            continue
        cells.append(cell)
        how.append(f"{view.image.width}x{view.image.height}, {view.how}")
    if not cells:
        return {"pictures": 0, "seen_as": []}
    contact_sheet(cells, path, columns=4, picture_pixels=PICTURE_PIXELS)
    return {"path": str(path), "pictures": len(cells), "seen_as": sorted(set(how))}


def target_cell(builder: SampleBuilder, record: Record) -> tuple[SheetCell, Seen]:
    """Of several pictures the one is shown that the answer's boxes lie in."""
    image = record.image(record.picture)
    view = seen(builder, image)
    text = target_text(record, builder.dialect)
    # Steps may speak of other pictures, each in the frame of its own.
    spoken = text if all(step.picture == record.picture for step in record.steps) else final_answer(text)
    size = record.sizes[record.picture]
    boxes = [view.place(box, builder.dialect.geometry, size) for box in builder.dialect.decode(spoken, size).boxes]
    asked = question_text(record, builder.dialect)
    return SheetCell(image=view.image, asked=asked, truth=boxes, note=text), view
