"""The contact sheet of targets: records of every task, on the pictures as the model sees them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lynx_moe.data import Record, RecordSet, SampleBuilder, question_text, target_text
from lynx_moe.data.prompts import final_answer
from lynx_moe.doctor.findings import Findings
from lynx_moe.doctor.seen import Seen, seen
from lynx_moe.errors import LynxError
from lynx_moe.grounding import SheetCell, contact_sheet

PICTURE_PIXELS = 320


def of_every_task(records: RecordSet, count: int) -> list[int]:
    """Positions of up to `count` records with a picture, as many of each task as can be, in the order of the tasks."""
    by_task: dict[str, list[int]] = {}
    for position, task in enumerate(records.column("task")):
        if len(by_task.setdefault(task, [])) < count and records.picture(position) >= 0:
            by_task[task].append(position)
    rounds = [[places[k] for places in by_task.values() if k < len(places)] for k in range(count)]
    return sorted([position for each in rounds for position in each][:count])


def draw_targets(
    builder: SampleBuilder, records: Sequence[Record], path: Path, findings: Findings
) -> dict[str, str | int | list[str]]:
    """Writes the sheet: what is asked above each picture, the target's text below, the boxes that this text spells drawn
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
