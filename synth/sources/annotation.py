"""One picture as an annotation file tells of it: what readers yield, what the index keeps, and how it is checked."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from typing import Any

from synth.record import ANY_PLACE
from synth.sources.fault import Fault

LARGEST_SIDE = 2**31 - 1
_ROUNDING = 1.0  # pixels a box may reach past the edge; annotation tools round, so these are clipped, not refused

Outline = dict[str, Any]  # see synth/sources/masks.py


@dataclass(kw_only=True, slots=True)
class Thing:
    """One annotated object, unchecked: ``box`` is xyxy or whatever the file holds; ``name`` None is an unknown one.

    ``id`` is the number by which captions and relations of the same picture mean it; ``row`` is what a fault calls it.
    ``crowd`` says that the box holds many of the name, or that the annotators gave up telling them apart.
    """

    id: int
    name: str | None
    box: Any
    row: str
    crowd: bool = False
    outline: Outline | None = None
    attributes: dict[str, str] = field(default_factory=dict)
    traits: list[str] = field(default_factory=list)


@dataclass(kw_only=True, slots=True)
class Annotated:
    """One picture with its annotations; plain values only, so that it can be kept as JSON.

    Args:
        file: path relative to the picture folder. width, height: pixels, None where only the picture knows.
        fractions: coordinates are shares of the picture's width and height, not pixels.
        captions: [text, [[start, end, [ids]], ...]]. relations: [subject id, predicate, object id].
        regions: [text, xyxy box, unique].
        exhaustive: of a name that is listed at all, every instance is, but for the unsure ones.
        unsure: names of which not every instance is listed. unlisted: xyxy boxes of what is there and left out (see
            ``check``). absent: names known not to be there; None says that every
            name of the source's vocabulary that is not listed is not there.
        split: the format's own split, None to choose by file name.
    """

    file: str
    width: Any = None
    height: Any = None
    fractions: bool = False
    things: list[Thing] = field(default_factory=list)
    captions: list[list] = field(default_factory=list)
    relations: list[list] = field(default_factory=list)
    regions: list[list] = field(default_factory=list)
    exhaustive: bool = True
    unsure: list[str] = field(default_factory=list)
    unlisted: list[list[float]] = field(default_factory=list)
    absent: list[str] | None = None
    licence: str | None = None
    split: str | None = None


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The names that a source's pictures were annotated with, also those that no picture holds."""

    names: tuple[str, ...]


_THING = tuple(f.name for f in fields(Thing) if f.name != "outline")
_KEPT = ("fractions", "captions", "relations", "regions", "exhaustive", "unsure", "unlisted", "absent", "licence")


def pack(picture: Annotated) -> tuple[str, str | None]:
    """Return all of the picture but file, size and split as JSON, and its outlines by the things' ids apart.

    Outlines are most of the text, and are wanted only when masks are stored.
    """
    things = [[getattr(thing, name) for name in _THING] for thing in picture.things]
    outlines = {thing.id: thing.outline for thing in picture.things if thing.outline}
    return _json([things, *(getattr(picture, name) for name in _KEPT)]), _json(outlines) if outlines else None


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def unpack(file: str, width: int | None, height: int | None, text: str) -> Annotated:
    """Return what ``pack`` was given, without split and outlines."""
    things, *rest = json.loads(text)
    things = [Thing(**dict(zip(_THING, values, strict=True))) for values in things]
    return Annotated(file=file, width=width, height=height, things=things, **dict(zip(_KEPT, rest, strict=True)))


def whole_size(picture: Annotated) -> bool:
    """Whether the stated size is absent or two whole numbers of pixels; 640.0 counts as whole and becomes so."""
    if picture.width is None and picture.height is None:
        return True
    for value in (picture.width, picture.height):
        if not is_number(value) or value != int(value) or not 1 <= value <= LARGEST_SIDE:
            return False
    picture.width, picture.height = int(picture.width), int(picture.height)
    return True


def check(picture: Annotated, width: int, height: int) -> tuple[Annotated, list[Fault]]:
    """Return the picture with only what is true of it in pixels of a ``width`` x ``height`` picture, and the rest.

    A name with a crowd region or a bad box becomes unsure, and objects of unsure names are left out: neither "find
    all" nor "is there any" could be answered truly. The sound boxes of what is left out become ``unlisted``.
    """
    scale = (width, height) if picture.fractions else (1, 1)
    good, faults, unsure = [], [], set(picture.unsure)
    listed = frozenset(unsure)
    for thing in picture.things:
        row = f"{picture.file}: {thing.row}"
        if not thing.name:
            faults.append(Fault("unknown category", row))
        elif not can_be_said(thing.name) or not all(map(can_be_said, thing.attributes.values())):
            faults.append(Fault("name that no text can hold", row))
            unsure.add(thing.name)
        elif thing.crowd:
            unsure.add(thing.name)
        elif isinstance(box := check_box(thing.box, width, height, scale), str):
            faults.append(Fault(box, row))
            unsure.add(thing.name)
        else:
            good.append(replace(thing, box=box))
    for thing in good:
        if thing.name in unsure:
            reason = "not every one of the name is annotated" if thing.name in listed else _SAME_NAME
            faults.append(Fault(reason, f"{picture.file}: {thing.name}"))
    regions = []
    for text, box, unique in picture.regions:
        box = check_box(box, width, height, scale)
        if isinstance(box, str):
            faults.append(Fault(box, f"{picture.file}: region {text!r}"))
        else:
            regions.append([text, box, unique])
    kept = [thing for thing in good if thing.name not in unsure]
    known = {thing.id for thing in kept}
    left_out = (check_box(thing.box, width, height, scale) for thing in picture.things if thing.id not in known)
    checked = replace(
        picture, width=width, height=height, things=kept, regions=regions, unsure=sorted(unsure),
        unlisted=[box for box in left_out if not isinstance(box, str)],
        captions=[[text, _known_spans(spans, known)] for text, spans in picture.captions],
        relations=[row for row in picture.relations if row[0] in known and row[2] in known and row[0] != row[2]],
    )  # fmt: skip
    return checked, faults


_SAME_NAME = "same name as a crowd or a bad box"


def can_be_said(name: str) -> bool:
    """Whether texts can hold a name: one of spaces alone says nothing, and `{box:0}` would be taken for a box."""
    return bool(name.strip()) and not ANY_PLACE.search(name)


def _known_spans(spans: Iterable[list], known: set[int]) -> list[list]:
    """Return the spans all of whose objects are there: a span that means two things does not mean one of them."""
    return [span for span in spans if span[2] and known.issuperset(span[2])]


def check_box(box: Any, width: int, height: int, scale: tuple[float, float] = (1, 1)) -> list[float] | str:
    """Return an xyxy box inside the picture, or the reason why there is none."""
    if not isinstance(box, (list, tuple)) or len(box) != 4 or not all(map(is_number, box)):
        return "box is not four numbers"
    x1, y1, x2, y2 = (float(value) for value in box)
    if x2 <= x1 or y2 <= y1:
        return "zero area"
    x1, y1, x2, y2 = x1 * scale[0], y1 * scale[1], x2 * scale[0], y2 * scale[1]
    if x1 < -_ROUNDING or y1 < -_ROUNDING or x2 > width + _ROUNDING or y2 > height + _ROUNDING:
        return "box outside the picture"
    inside = [max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))]
    return inside if inside[0] < inside[2] and inside[1] < inside[3] else "box outside the picture"


def is_number(value: Any) -> bool:
    """Whether it is a finite number that a float can hold; True and False are none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def corners(bbox: Any) -> Any:
    """Turn x, y, width, height into xyxy; anything else is handed on for ``check`` to refuse."""
    if not isinstance(bbox, (list, tuple)) or len(bbox) != 4 or not all(map(is_number, bbox)):
        return None
    x, y, width, height = bbox
    return [x, y, x + width, y + height]
