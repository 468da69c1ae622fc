"""The record format: what one row of a dataset folder holds, and the rules every row keeps."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import accumulate, chain
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from synth.errors import RecordError
from synth.scene import OutlineError

FORMAT = 3
PLACEHOLDER = re.compile(r"\{box:(\d+)\}")
POINT = re.compile(r"\{point:(\d+)\}")  # in questions only
MASK = re.compile(r"\{mask:(\d+)\}")  # in answers and steps only: the mask of what is in that box
ANY_PLACE = re.compile(r"\{(?:box|point|mask):\d+\}")  # what texts of others may not hold
_EDGE = 1e-3  # pixels a box may reach past the picture's edge through rounding

_BOXES = pa.list_(pa.list_(pa.float64()))
_MASKS = pa.list_(pa.struct([("size", pa.list_(pa.int32())), ("counts", pa.string())]))  # as pycocotools takes them
_STEP = pa.struct(
    [("text", pa.string()), ("boxes", _BOXES), ("objects", pa.list_(pa.string())), ("picture", pa.int32()),
     ("masks", _MASKS)]
)  # fmt: skip
_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])  # the layout of datasets.Image

RECORDS = pa.schema(
    [("id", pa.string()), ("image_id", pa.string()), ("question", pa.string()), ("steps", pa.list_(_STEP)),
     ("answer", pa.string()), ("boxes", _BOXES), ("phrase", pa.string()), ("task", pa.string()), ("kind", pa.string()),
     ("source", pa.string()), ("split", pa.string()), ("licence", pa.string()), ("seed", pa.string()),
     ("facts", pa.string()), ("language", pa.string()), ("engine", pa.string()), ("question_boxes", _BOXES),
     ("question_points", _BOXES), ("difficulty", pa.int32()), ("more_image_ids", pa.list_(pa.string())),
     ("picture", pa.int32()), ("masks", _MASKS), ("question_masks", _MASKS)]
)  # fmt: skip

_LISTS = ("captions", "relations", "regions", "questions")  # of a scene

_STRING, _INT = {"dtype": "string", "_type": "Value"}, {"dtype": "int32", "_type": "Value"}
_FLOAT = {"dtype": "float64", "_type": "Value"}
_OBJECT_FEATURES = {
    "id": _INT, "name": _STRING, "kind": _STRING, "box": {"feature": _FLOAT, "_type": "List"}, "attributes": _STRING,
    "traits": {"feature": _STRING, "_type": "List"}, "depth": _FLOAT,
    "confidence": _FLOAT, "mask": {"feature": _INT, "_type": "List"},
}  # fmt: skip
_IMAGE_FEATURES = {
    "image_id": _STRING, "image": {"_type": "Image"}, "width": _INT, "height": _INT,
    "objects": {"feature": _OBJECT_FEATURES, "_type": "List"}, "scene": _STRING,
}  # fmt: skip
_OBJECT = pa.struct(
    [("id", pa.int32()), ("name", pa.string()), ("kind", pa.string()), ("box", pa.list_(pa.float64())),
     ("attributes", pa.string()), ("traits", pa.list_(pa.string())), ("depth", pa.float64()),
     ("confidence", pa.float64()), ("mask", pa.list_(pa.int32()))]
)  # fmt: skip
IMAGES = pa.schema(
    [
        ("image_id", pa.string()),
        ("image", _IMAGE),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("objects", pa.list_(_OBJECT)),
        ("scene", pa.string()),
    ],
    metadata={"huggingface": json.dumps({"info": {"features": _IMAGE_FEATURES}})},  # datasets then decodes the pictures
)


def make_picture(scene: Any, image_id: str, *, link: bool = False) -> dict:
    """Return the row of the images table: the encoded picture and what the scene knows of its objects.

    With ``link`` the picture's bytes are None, its path is that of the scene's file below the source's root, and masks
    are left out: nothing is decoded or drawn.

    ``attributes`` is a JSON object; ``mask`` the visible pixels as run lengths in row order, background first (empty
    when the source has no mask); ``scene`` what else the scene says, as JSON: `synth.check.scene_from` reads it all.
    """
    if link:
        image = {"bytes": None, "path": scene.file}
    else:  # before any mask is drawn: a picture that is not of the annotated size must not cost that much memory
        data, extension = scene.image_bytes()
        image = {"bytes": data, "path": f"{image_id.replace('/', '_')}.{extension}"}
    objects = [
        {"id": o.id, "name": o.name, "kind": o.kind, "box": [float(v) for v in o.box],
         "attributes": _as_json(o.attributes), "traits": list(o.traits), "depth": o.depth, "confidence": o.confidence,
         "mask": [] if link else _along_rows(o)}
        for o in scene.objects
    ]  # fmt: skip
    said = {name: getattr(scene, name) for name in ("background", "complete", "exhaustive", "vocabulary", "colours")}
    said |= {name: [asdict(entry) for entry in getattr(scene, name)] for name in _LISTS}
    said |= {"unlisted": scene.unlisted} if scene.unlisted else {}
    return {
        "image_id": image_id, "image": image, "width": scene.width, "height": scene.height, "objects": objects,
        "scene": _as_json(said),
    }  # fmt: skip


def _along_rows(obj: Any) -> list[int]:
    if isinstance(obj.mask, np.ndarray):
        return run_lengths(obj.mask)
    try:
        runs = obj.runs()
    except OutlineError:  # the box is true all the same; a mask is an extra
        return []
    return [] if runs is None else runs.along_rows()


def table(rows: list[dict], schema: pa.Schema) -> pa.Table:
    """Return the rows as a table: the same as ``pa.Table.from_pylist``, several times faster on nested rows."""
    return pa.Table.from_arrays(_arrays(rows, schema), schema=schema)


def _arrays(rows: list[dict], fields: Iterable[pa.Field]) -> list[pa.Array]:
    names_and_kinds = [(field.name, field.type) for field in fields]  # each asked of Arrow once, not once a row
    return [_array([row[name] for row in rows], kind) for name, kind in names_and_kinds]


def _array(values: list, kind: pa.DataType) -> pa.Array:
    """Columns all the way down: what lies in lists is laid end to end, and Arrow sees every leaf as one flat list."""
    if not pa.types.is_nested(kind) or None in values:
        return pa.array(values, kind)
    if pa.types.is_struct(kind):
        return pa.StructArray.from_arrays(_arrays(values, kind), fields=list(kind))
    ends = accumulate(map(len, values), initial=0)
    return pa.ListArray.from_arrays(
        pa.array(ends, pa.int32()), _array(list(chain.from_iterable(values)), kind.value_type), type=kind
    )


def run_lengths(mask: np.ndarray) -> list[int]:
    """Lengths of the runs of equal pixels of a boolean (height, width) mask in row order, background first.

    >>> run_lengths(np.array([[False, True], [True, False]]))
    [1, 2, 1]
    """
    flat = mask.ravel()
    edges = np.flatnonzero(np.diff(flat)) + 1
    bounds = [0, *edges.tolist(), flat.size]
    runs = [b - a for a, b in zip(bounds, bounds[1:], strict=False)]
    return [0, *runs] if flat[0] else runs


def mask_of_runs(runs: np.ndarray, width: int, height: int) -> np.ndarray:
    """The boolean (height, width) mask with these ``run_lengths``; raises ``ValueError`` if they do not fill it.

    >>> mask_of_runs(np.array([1, 2, 1]), 2, 2).tolist()
    [[False, True], [True, False]]
    """
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)


def image_id_of(scene: Any, split: str) -> str:
    """Return the id of a scene's picture."""
    return f"{split}/{scene.source}/{scene.index}"


def named_pictures(record: dict) -> list[str]:
    """Return the ids of all pictures that a row is about, in their order; none for a row of text alone.

    Rows of older formats, which are about one picture, will do.
    """
    return [record["image_id"], *(record.get("more_image_ids") or ())] if record["image_id"] else []


def make_record(
    draft: Any, *, facts: dict, task: str, kind: str, image_id: str, scene: Any, split: str, language: str, seed: str,
    k: int, more: Sequence[Any] = (),
) -> dict:  # fmt: skip
    """Return the row for the ``k``-th draft that ``task`` made of ``scene``; ``seed`` is the stream key of the task.

    ``more`` are the further scenes of a task about several pictures; such a row has the licences of all of them.
    Masks of its boxes are added by `synth.masks`, where they are asked for.
    """
    licences = [part for each in (scene, *more) for part in each.licence.split("; ")] if more else [scene.licence]
    return {
        "id": f"{split}/{scene.source}/{scene.index}/{task}/{k}", "image_id": image_id, "question": draft.question,
        "steps": [
            {"text": s.text, "boxes": [*map(list, s.boxes)], "objects": list(s.objects), "picture": s.picture,
             "masks": []}
            for s in draft.steps
        ],
        "answer": draft.answer, "boxes": [*map(list, draft.boxes)], "phrase": draft.phrase, "task": task, "kind": kind,
        "source": scene.source, "split": split, "licence": "; ".join(dict.fromkeys(licences)), "seed": seed,
        "facts": _as_json(facts), "language": language, "engine": "template",
        "question_boxes": [*map(list, draft.question_boxes)],
        "question_points": [*map(list, draft.question_points)], "difficulty": draft.difficulty,
        "more_image_ids": [image_id_of(each, split) for each in more], "picture": draft.picture,
        "masks": [], "question_masks": [],
    }  # fmt: skip


def check_record(record: dict, width: int, height: int, *more: tuple[int, int]) -> None:
    """Raise ``RecordError`` unless the row keeps the format's rules for a picture of ``width`` x ``height`` pixels.

    ``more`` are the sizes of the further pictures of a row about several.

    Rules: a question and an answer; boxes are xyxy, not empty and inside their picture, which is one of the row's;
    placeholders of boxes and of masks point at boxes that exist, those of masks never in the question, and each of
    ``question_boxes`` is pointed at by the question; so are ``question_points`` ([x, y] inside the first picture, in
    the question only); understanding rows and rows without a picture carry no boxes and no points.
    """
    if fault := _fault(record, ((width, height), *more)):
        raise RecordError(
            f"record {record['id']!r}: {fault}", why=f"task {record['task']!r} broke the record format",
            fix="correct the task's tell(); places get into text only as {box:0}, {mask:0} or {point:0} and are "
            "original pixels",
        )  # fmt: skip


def _fault(record: dict, sizes: tuple[tuple[int, int], ...]) -> str:
    """The first rule that the row breaks; nothing where it keeps them all."""
    kind, question, shown = record["kind"], record["question"], record["question_boxes"]
    ids = (record["image_id"], *record["more_image_ids"])
    if len(ids) != len(sizes) or len(set(ids)) != len(ids) or (len(ids) > 1 and "" in ids):
        return f"it names the pictures {ids}, and is about {len(sizes)} different ones"
    if kind not in ("grounding", "understanding"):
        return f"kind is {kind!r}, neither 'grounding' nor 'understanding'"
    if not question.strip() or not record["answer"].strip():
        return "question or answer is empty"
    if shown and (unused := set(range(len(shown))) - set(map(int, PLACEHOLDER.findall(question)))):
        return f"the question never points at its box {min(unused)}"
    bare = kind == "understanding" or not record["image_id"]
    parts = [("question", question, shown, 0), ("answer", record["answer"], record["boxes"], record["picture"])]
    parts += [(f"step {n}", s["text"], s["boxes"], s["picture"]) for n, s in enumerate(record["steps"], 1)]
    for where, text, boxes, picture in parts:
        if not 0 <= picture < len(sizes):
            return f"{where} lies in picture {picture} of {len(sizes)}"
        if boxes or "{" in text:
            fault = _part_fault(where, text, boxes, bare, *sizes[picture])
            if fault:
                return fault
            if "{point:" in text and where != "question":
                return f"{where} has a point, where only boxes may be: {text!r}"
            if "{mask:" in text and where == "question":
                return f"the question has a mask, where only boxes and points may be: {text!r}"
    points = record["question_points"]
    return _point_fault(question, points, bare, *sizes[0]) if points or "{point:" in question else ""


def _part_fault(where: str, text: str, boxes: list, bare: bool, width: int, height: int) -> str:
    for index in map(int, (*PLACEHOLDER.findall(text), *MASK.findall(text))):
        if index >= len(boxes):
            return f"{where} points at box {index} of {len(boxes)}"
    for box in boxes:
        if len(box) != 4 or not all(map(math.isfinite, box)):
            return f"{where} has a box that is not four finite numbers: {box}"
        x1, y1, x2, y2 = box
        if not (-_EDGE <= x1 < x2 <= width + _EDGE and -_EDGE <= y1 < y2 <= height + _EDGE):
            return f"{where} has a box that is empty or outside the {width} x {height} picture: {box}"
    if boxes and bare:
        return f"{where} has boxes, yet the row is about understanding or has no picture"
    return ""


def _point_fault(question: str, points: list, bare: bool, width: int, height: int) -> str:
    if points and bare:
        return "question has points, yet the row is about understanding or has no picture"
    shown = set(map(int, POINT.findall(question)))
    if wrong := shown ^ set(range(len(points))):
        k = min(wrong)
        return f"question has {{point:{k}}}, but {len(points)} points" if k in shown else f"point {k} is never shown"
    for point in points:
        if len(point) != 2 or not all(map(math.isfinite, point)):
            return f"question has a point that is not two finite numbers: {point}"
        if not (0 <= point[0] <= width and 0 <= point[1] <= height):
            return f"question has a point outside the {width} x {height} picture: {point}"
    return ""


def _as_json(value: Any) -> str:
    return orjson.dumps(value).decode()
