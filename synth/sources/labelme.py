"""LabelMe: one JSON file per picture with polygons, rectangles and circles."""

from __future__ import annotations

import json
import math
import posixpath
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from synth.sources.annotation import Annotated, Outline, Thing, is_number
from synth.sources.fault import Fault
from synth.sources.format import Format, Items, below, digest_of
from synth.sources.masks import extent
from synth.sources.options import Folder
from synth.sources.pictures import PictureFolder


def read(folder: Folder, work: Path) -> Items:
    """Yield the picture of each file; shapes of one label and group are one object, lines and points are none."""
    root = folder.path
    for path in below(root, ".json"):
        row = path.relative_to(root).as_posix()
        try:
            content = json.loads(path.read_bytes())
            shapes, file = content["shapes"], content["imagePath"]
            if not isinstance(shapes, list) or not isinstance(file, str):
                raise ValueError
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            yield Fault("unreadable annotation file", row)
            continue
        yield Annotated(
            # The path is relative to the JSON file, and written on Windows with Windows' own slashes.
            file=posixpath.normpath(posixpath.join(posixpath.dirname(row), file.replace("\\", "/"))),
            width=content.get("imageWidth"), height=content.get("imageHeight"), things=_things(shapes),
        )  # fmt: skip


def _things(shapes: list) -> list[Thing]:
    groups: dict[Any, list[tuple[int, dict]]] = {}
    for k, shape in enumerate(shapes):
        if isinstance(shape, dict):
            group = shape.get("group_id")
            label = shape.get("label")
            alone = not isinstance(group, (int, str)) or not isinstance(label, str)
            groups.setdefault(k if alone else (label, group), []).append((k, shape))
    return [_thing(members) for members in groups.values()]


def _thing(members: list[tuple[int, dict]]) -> Thing:
    parts = [_outline(shape) for _, shape in members]
    boxes = [box for box, _ in parts]
    box = None
    if None not in boxes:
        box = [min(b[0] for b in boxes), min(b[1] for b in boxes), max(b[2] for b in boxes), max(b[3] for b in boxes)]
    outlines = [outline for _, outline in parts]
    outline = outlines[0] if len(outlines) == 1 else None
    if len(outlines) > 1 and all(o and "polygons" in o for o in outlines):
        outline = {"polygons": [polygon for o in outlines for polygon in o["polygons"]]}
    k, first = members[0]
    label = first.get("label")
    name = label.strip() if isinstance(label, str) else None
    return Thing(id=k, name=name, box=box, row=f"shape {k + 1}", outline=outline)


def _outline(shape: dict) -> tuple[list[float] | None, Outline | None]:
    """Return a shape's box and outline; (None, None) for what has no extent."""
    points, form = shape.get("points"), shape.get("shape_type") or "polygon"
    if not isinstance(points, list) or not all(isinstance(p, list) and len(p) == 2 for p in points):
        return None, None
    flat = [value for point in points for value in point]
    if not all(map(is_number, flat)):
        return None, None
    if form == "polygon" and len(points) >= 3:
        return extent([flat]), {"polygons": [flat]}
    if form == "circle" and len(points) == 2:  # its middle and a point on its edge
        (x, y), (u, v) = points
        radius = math.hypot(float(u) - float(x), float(v) - float(y))
        return [x - radius, y - radius, x + radius, y + radius], {"ellipse": [x, y, radius, radius]}
    if form in ("rectangle", "mask") and len(points) == 2:
        x1, y1, x2, y2 = box = extent([flat])
        return box, {"polygons": [[x1, y1, x2, y1, x2, y2, x1, y2]]} if form == "rectangle" else None
    return None, None


def _files(folder: Folder) -> Iterator[Path]:
    return below(folder.path, ".json")


FORMAT = Format(
    read=read, pictures=lambda folder: PictureFolder(folder.path),
    digest=lambda folder: digest_of(_files(folder), folder.path), expects="*.json with shapes, beside their pictures",
    signs=(("*.json",), ("*/*.json",)), holds=b'"shapes"',
)  # fmt: skip
