"""The checker: derives a record again from its stored facts and its scene, and says what differs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from functools import partial

import numpy as np

from synth.languages import load_pack
from synth.languages.say import SayAll
from synth.masks import mask_faults
from synth.record import mask_of_runs
from synth.scene import Caption, Obj, Question, Region, Relation, Scene
from synth.tasks import TASKS

_PIXELS = 1e-6  # what a box may lose on its way through a file


def faults(record: dict, scene: Scene | None, *more: Scene, masks: bool = False) -> Iterator[str]:
    """Yield what is wrong with a record about ``scene`` (as its source gave it; None for a record without picture).

    ``more`` are the scenes of the further pictures of a record about several, in their order. ``masks`` says whether
    the data was made with masks=true: every box then has a mask or None, each held against its box and its thing.

    The task's ``tell`` speaks again from ``record["facts"]``: it returns nothing where the scene does not bear the
    facts out, and answer, steps and boxes must be what it says. The question must be one of the pack's wordings of
    it. Of a record that engine=llm has reworded (``record["engine"]`` says so) question and steps are that engine's to
    check; its answer and all its boxes are compared all the same.
    """
    task, pack = TASKS.get(record["task"]), load_pack(record["language"])
    if task is None:
        yield f"there is no task {record['task']!r}"
        return
    further = record["more_image_ids"] or ()
    if len(further) != len(more) or task.pictures != 1 + len(more):
        yield f"it names {len(further)} further pictures; the task is about {task.pictures} in all"
        return
    say = SayAll(pack, task.name)
    try:
        spoken = scene and pack.translate(scene)
        asked = (spoken, *map(pack.translate, more)) if more else spoken
        draft = task.draft(asked, json.loads(record["facts"]), say)
    except (LookupError, TypeError, ValueError, AttributeError) as problem:  # not facts of this task, or of no scene
        yield f"its facts cannot be told: {problem!r}"
        return
    if draft is None:
        yield "the picture does not bear out what is asked"
        return
    reworded = record["engine"] == "llm"
    if not reworded and record["question"] not in say.said.get(draft.question, {draft.question}):
        yield f"question is {record['question']!r}, not {draft.question!r} or another wording of it"
    if record["answer"] not in say.said.get(draft.answer, {draft.answer}):
        yield f"answer is {record['answer']!r}, not {draft.answer!r}"
    if not _same(record["boxes"], draft.boxes):
        yield f"boxes of the answer are {record['boxes']}, not {draft.boxes}"
    if record["picture"] != draft.picture:
        yield f"boxes of the answer lie in picture {record['picture']}, not {draft.picture}"
    if not _same(record["question_boxes"], draft.question_boxes):
        yield f"boxes of the question are {record['question_boxes']}, not {draft.question_boxes}"
    if not _same(record["question_points"], draft.question_points):
        yield f"points of the question are {record['question_points']}, not {draft.question_points}"
    if record["difficulty"] != draft.difficulty:
        yield f"difficulty is {record['difficulty']}, not {draft.difficulty}"
    if record["phrase"] != draft.phrase:
        yield f"phrase is {record['phrase']!r}, not {draft.phrase!r}"
    if len(record["steps"]) != len(draft.steps):
        yield f"{len(record['steps'])} steps, not {len(draft.steps)}"
    for k, (found, step) in enumerate(zip(record["steps"], draft.steps, strict=False), 1):
        if not reworded and found["text"] not in say.said.get(step.text, {step.text}):
            yield f"step {k} is {found['text']!r}, not {step.text!r}"
        if not _same(found["boxes"], step.boxes):
            yield f"boxes of step {k} are {found['boxes']}, not {step.boxes}"
        if found["picture"] != step.picture:
            yield f"boxes of step {k} lie in picture {found['picture']}, not {step.picture}"
        if list(found["objects"]) != list(step.objects):
            yield f"objects of step {k} are {found['objects']}, not {step.objects}"
    yield from mask_faults(record, [scene, *more] if scene else [], masks)


def _same(found: list, told: list) -> bool:
    return len(found) == len(told) and all(
        len(a) == len(b) and all(math.isclose(x, y, abs_tol=_PIXELS) for x, y in zip(a, b, strict=True))
        for a, b in zip(found, told, strict=True)
    )


def scene_from(picture: dict) -> Scene:
    """Return the scene of a row of the images table: all that questions are derived from, not the picture itself."""
    known = json.loads(picture["scene"])
    known |= {name: tuple(known[name]) for name in ("vocabulary", "colours")}
    known["captions"] = [
        Caption(text=c["text"], spans=tuple((a, b, tuple(ids)) for a, b, ids in c["spans"])) for c in known["captions"]
    ]
    known["unlisted"] = tuple(map(tuple, known.get("unlisted", ())))
    known["relations"] = [Relation(**relation) for relation in known["relations"]]
    known["regions"] = [Region(**region | {"box": tuple(region["box"])}) for region in known["regions"]]
    known["questions"] = [
        Question(text=q["text"], answer=q["answer"], steps=tuple((text, tuple(ids)) for text, ids in q["steps"]))
        for q in known["questions"]
    ]
    objects = [
        Obj(
            id=o["id"], name=o["name"], kind=o["kind"], box=tuple(o["box"]), attributes=json.loads(o["attributes"]),
            traits=tuple(o["traits"]), depth=o["depth"], confidence=o["confidence"],
            mask=partial(mask_of_runs, np.array(o["mask"], np.int32), picture["width"], picture["height"])
            if o["mask"] else None,
        )
        for o in picture["objects"]
    ]  # fmt: skip
    return Scene(
        index=0, width=picture["width"], height=picture["height"], objects=objects, image_bytes=_no_bytes,
        source="", licence="", **known,
    )  # fmt: skip


def _no_bytes():
    raise ValueError("a scene read from a table has no picture; read the image column")
