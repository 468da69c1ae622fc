"""The masks of a record's boxes: the visible pixels of the thing that a box is of, where its picture knows them.

A mask is {"size": [height, width], "counts": COCO's compressed run lengths}, in pixels of the original picture, and
None where nobody knows it. A box has the mask of the one thing that has this very box. A mask must be as large as its
box, within a pixel: annotators' masks that are not belong to something else, or hide a part that the box has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from synth.errors import RecordError
from synth.record import MASK
from synth.rle import Runs
from synth.scene import Box, Obj, Scene
from synth.sources.fault import Fault

_APART = 1 + 1e-6  # pixels; boxes have fractions, masks have none


class SceneMasks:
    """The masks of one picture by box, each encoded once; ``quarantine`` is told of every one that is no good."""

    def __init__(self, scene: Scene, quarantine: Callable[[Fault], None] = lambda fault: None) -> None:
        self._scene, self._quarantine = scene, quarantine
        self._things: dict[Box, list[Obj]] = {}
        self._found: dict[int, dict | None] = {}
        for obj in scene.objects:
            self._things.setdefault(_key(obj.box), []).append(obj)

    def of(self, box: Sequence[float]) -> dict | None:
        """Return the mask of the thing with this box; None where it has none, none that is good, or two have it."""
        things = self._things.get(_key(box), ())
        if len(things) != 1:
            return None
        (obj,) = things
        if obj.id not in self._found:
            self._found[obj.id] = self._encoded(obj)
        return self._found[obj.id]

    def _encoded(self, obj: Obj) -> dict | None:
        try:
            runs = obj.runs()
        except ValueError:  # an OutlineError, or runs of a table that somebody has changed
            reason = "outline that cannot be drawn"
        else:
            if runs is None:
                return None
            reason = _unlike(runs, obj.box)
            if not reason:
                return runs.coco()
        self._quarantine(Fault(reason, f"{self._scene.file or self._scene.index}: thing {obj.id}, {obj.name}"))
        return None


def add_masks(record: dict, pictures: Sequence[SceneMasks]) -> None:
    """Give every box of a row its mask; ``pictures`` are those the row is about, in their order."""
    for part, picture, boxes, masks in _parts(record):
        part[masks] = [pictures[picture].of(box) for box in part[boxes]]


def can_be_segmented(shown: Scene | tuple[Scene, ...], draft: Any) -> bool:
    """Whether a record of the draft will have every mask that its answer and steps speak of (``{mask:k}``).

    Painted words are not asked for: nobody outlines letters like another.
    """
    scenes = shown if isinstance(shown, tuple) else (shown,)
    for text, part in ((draft.answer, draft), *((step.text, step) for step in draft.steps)):
        scene = scenes[part.picture]
        for box in (part.boxes[int(k)] for k in MASK.findall(text)):
            known = scene.remembered.setdefault("masks", SceneMasks(scene))
            if known.of(box) is None or any(o.kind == "text" and _key(o.box) == _key(box) for o in scene.objects):
                return False
    return True


def check_masks(record: dict) -> None:
    """Raise ``RecordError`` if a row that ``add_masks`` was given speaks of a mask that it does not have."""
    if fault := next(_unknown(record), ""):
        raise RecordError(
            f"record {record['id']!r}: {fault}", why=f"task {record['task']!r} broke the record format",
            fix="register the task with masks=True: it is then asked only of things whose mask is known",
        )  # fmt: skip


def _unknown(record: dict) -> Iterator[str]:
    """Every mask that answer or steps speak of and that nobody knows."""
    for text, part in ((record["answer"], record), *((step["text"], step) for step in record["steps"])):
        for k in map(int, MASK.findall(text)):
            if k >= len(part["masks"] or ()) or part["masks"][k] is None:
                yield f"{text!r} speaks of mask {k}, which nobody knows"


def count_masks(record: dict) -> dict[str, int]:
    """How many boxes and masks a row has that ``add_masks`` was given."""
    masks = [mask for part, *_, name in _parts(record) for mask in part[name]]
    return {"boxes": len(masks), "masks": len(masks) - masks.count(None)}


def mask_faults(record: dict, scenes: Sequence[Scene], asked: bool) -> Iterator[str]:
    """Yield what is wrong with the masks of a row about ``scenes``, which come from a table.

    Every mask must fit its box, and be the one that the table has of the thing; where the table has none of any thing
    (``images=link``) that it fits is all that can be said. A mask that is spoken of must be known.

    Args:
        asked: whether the data was made with ``masks=true``; if not, there must be none.
    """
    yield from _unknown(record)
    pictures = [(scene, SceneMasks(scene), any(o.mask is not None for o in scene.objects)) for scene in scenes]
    for part, picture, boxes, name in _parts(record):
        where, masks = name if part is record else f"{name} of step {part['text']!r}", part.get(name) or []
        if len(masks) != (len(part[boxes]) if asked else 0):
            yield f"{where}: {len(masks)} for {len(part[boxes])} boxes, {'' if asked else 'not '}made with masks=true"
            continue
        if not masks or not 0 <= picture < len(pictures):  # a wrong picture is told by who compares those
            continue
        scene, known, stored = pictures[picture]
        for k, (mask, box) in enumerate(zip(masks, part[boxes], strict=True)):
            if fault := _fault(mask, box, scene.width, scene.height):
                yield f"{where}: mask {k} {fault}"
            elif stored and mask != known.of(box):
                yield f"{where}: mask {k} is not the one of what lies in {box}"


def _fault(mask: dict | None, box: Sequence[float], width: int, height: int) -> str:
    if mask is None:
        return ""
    try:
        runs = Runs.read(mask)
    except ValueError as problem:
        return f"cannot be read: {problem}"
    if (runs.width, runs.height) != (width, height):
        return f"is of a {runs.width} x {runs.height} picture, not of {width} x {height}"
    return _unlike(runs, box)


def _unlike(runs: Runs, box: Sequence[float]) -> str:
    """Why the mask is not that of the box; nothing where it is."""
    if runs.extent is None:
        return "empty mask"
    if any(abs(a - b) > _APART for a, b in zip(runs.extent, box, strict=True)):
        return "mask of another extent than its box"
    return ""


def _parts(record: dict) -> Iterator[tuple[dict, int, str, str]]:
    """(what holds them, in which picture they lie, name of the boxes, name of the masks) of all boxes of a row."""
    yield record, record["picture"], "boxes", "masks"
    yield record, 0, "question_boxes", "question_masks"
    for step in record["steps"]:
        yield step, step["picture"], "boxes", "masks"


def _key(box: Sequence[float]) -> Box:
    return tuple(map(float, box))
