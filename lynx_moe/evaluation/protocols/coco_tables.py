"""Files in COCO's layout (images, annotations, categories) as dictionaries; what is bad in them is counted."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lynx_moe.errors import RecordError
from synth.sources.coco_file import SourceError, is_id, items

Id = int | str
Corners = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Marked:
    """One annotation: `box` in xyxy pixels, `area` square pixels of the thing (of the box where the file has none)."""

    id: Id
    image: Id
    category: Id
    box: Corners
    area: float
    crowd: bool
    segmentation: list | dict | None


@dataclass(slots=True)
class CocoTables:
    """`images` and `categories` are the file's rows by id; `marked` the annotations by id, `by_image` by picture."""

    images: dict[Id, dict] = field(default_factory=dict)
    categories: dict[Id, dict] = field(default_factory=dict)
    marked: dict[Id, Marked] = field(default_factory=dict)
    by_image: dict[Id, list[Marked]] = field(default_factory=dict)


def read_coco(path: Path, faults: Counter[str], outlines: bool = False) -> CocoTables:
    """The tables of a COCO file, streamed; of two rows with one id the first is kept.

    Args:
        faults: counts rows without id, repeated ids, boxes that are none, annotations of unlisted pictures.
        outlines: keep each annotation's `segmentation`, which is most of the file.

    Raises:
        RecordError: no such file, or it is not JSON.
    """
    tables = CocoTables()
    for row in rows_of(path, "categories.item"):
        _file(tables.categories, row, faults, "category")
    for row in rows_of(path, "images.item"):
        _file(tables.images, row, faults, "picture")
    for row in rows_of(path, "annotations.item"):
        found = _marked(row, outlines)
        if found is None:
            faults["annotation without ids or a usable box"] += 1
        elif found.image not in tables.images:
            faults["annotation of an unlisted picture"] += 1
        elif found.id in tables.marked:
            faults["duplicate annotation id"] += 1
        else:
            tables.marked[found.id] = found
            tables.by_image.setdefault(found.image, []).append(found)
    return tables


def rows_of(path: Path, prefix: str) -> Iterator[Any]:
    """The values of a JSON file below an ijson prefix, one at a time; raises RecordError for what is not JSON."""
    try:
        yield from items(path, prefix)
    except SourceError as problem:
        raise RecordError(problem.message, why=problem.why, fix="get the benchmark's own file again") from problem


def _file(table: dict[Id, dict], row: Any, faults: Counter[str], what: str) -> None:
    if not isinstance(row, dict) or not is_id(row.get("id")):
        faults[f"{what} without id"] += 1
    elif row["id"] in table:
        faults[f"duplicate {what} id"] += 1
    else:
        table[row["id"]] = row


def _marked(row: Any, outlines: bool) -> Marked | None:
    if not isinstance(row, dict) or not all(is_id(row.get(key)) for key in ("id", "image_id", "category_id")):
        return None
    box = corners(row.get("bbox"))
    if box is None:
        return None
    area, outline = row.get("area"), row.get("segmentation")
    return Marked(
        id=row["id"],
        image=row["image_id"],
        category=row["category_id"],
        box=box,
        area=float(area) if is_number(area) else (box[2] - box[0]) * (box[3] - box[1]),
        crowd=bool(row.get("iscrowd")),
        segmentation=outline if outlines and isinstance(outline, list | dict) else None,
    )


def corners(xywh: Any) -> Corners | None:
    """COCO's [x, y, width, height] as xyxy; None when it is no box with an area."""
    if not isinstance(xywh, list | tuple) or len(xywh) != 4 or not all(map(is_number, xywh)):
        return None
    x, y, width, height = map(float, xywh)
    return (x, y, x + width, y + height) if width > 0 and height > 0 else None


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
