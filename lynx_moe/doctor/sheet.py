"""The contact sheet of targets: records of every task, on the pictures as the model sees them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from lynx_moe.data import Record, RecordSet, SampleBuilder, target_text
from lynx_moe.data.prompts import final_answer, mask_places
from lynx_moe.doctor.findings import Findings
from lynx_moe.doctor.seen import Seen, seen
from lynx_moe.errors import LynxError
from lynx_moe.families.dialects import Dialect
from lynx_moe.grounding import SheetCell, contact_sheet
from lynx_moe.grounding.drawing import TRUE_COLOUR
from lynx_moe.grounding.outlines import drawn

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
    """Of several pictures the one is shown that the answer's boxes lie in; masks that it speaks of are painted in."""
    image = record.image(record.picture)
    text = target_text(record, builder.dialect)
    view = seen(builder, painted(image, spoken_pixels(record, builder.dialect)))
    # Steps may speak of other pictures, each in the frame of its own.
    spoken = text if all(step.picture == record.picture for step in record.steps) else final_answer(text)
    size = record.sizes[record.picture]
    boxes = [view.place(box, builder.dialect.geometry, size) for box in builder.dialect.decode(spoken, size).boxes]
    asked = builder.question(record)
    return SheetCell(image=view.image, asked=asked, truth=boxes, note=text), view


def spoken_pixels(record: Record, dialect: Dialect) -> np.ndarray:
    """(H, W) bool: what the answer's words for masks stand for, or what its outlines enclose."""
    size = record.sizes[record.picture]
    if dialect.mask_word is None:
        return drawn(dialect.decode(final_answer(target_text(record, dialect)), size).polygons, size[::-1])
    masks = [mask.array() for _, mask, picture in mask_places(record, dialect) if picture == record.picture]
    return np.any([np.zeros(size[::-1], bool), *masks], axis=0)


def painted(image: Image.Image, pixels_HW: np.ndarray) -> Image.Image:
    """The picture with half of its colour taken by that of true boxes where `pixels_HW` is True."""
    if not pixels_HW.any():
        return image
    return Image.composite(
        Image.blend(image, Image.new("RGB", image.size, TRUE_COLOUR), 0.5), image, Image.fromarray(pixels_HW)
    )
