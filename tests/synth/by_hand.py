"""Scenes laid out by hand, where a person can see what is true, and what a task asks of them."""

import random
from dataclasses import replace

import numpy as np

from synth.languages import load_pack
from synth.scene import Obj, Scene
from synth.tasks import TASKS


def scene(*objects: Obj, **known) -> Scene:
    """200 x 100 pixels."""
    vocabulary = known.pop("vocabulary", ("cat", "dog", "star", "key"))
    return Scene(
        index=0, width=200, height=100, objects=list(objects), image_bytes=lambda: (b"", "jpg"), source="hand",
        licence="none", background="plain", vocabulary=vocabulary, **known,
    )  # fmt: skip


def thing(k: int, name: str, *box: float, depth: float | None = None, traits=(), **attributes: str) -> Obj:
    return Obj(id=k, name=name, box=box, attributes=attributes, depth=depth, traits=traits)


def with_mask(obj: Obj) -> Obj:
    """The same thing, filling its box on such a picture."""
    x1, y1, x2, y2 = map(int, obj.box)
    mask = np.zeros((100, 200), bool)
    mask[y1:y2, x1:x2] = True
    return replace(obj, mask=mask)


def drafts(
    task: str, here: Scene | tuple[Scene, ...], *, split: str = "train", draws: int = 40, language: str = "en"
) -> list:
    """Every draft that the task has for the scene, or for several, over many draws."""
    pack = load_pack(language)
    spoken = tuple(map(pack.translate, here)) if isinstance(here, tuple) else pack.translate(here)
    told = (TASKS[task].ask(spoken, random.Random(k), split, pack) for k in range(draws))
    return [draft for one in told for _, draft in one]


def asked(task: str, *objects: Obj, split: str = "train", draws: int = 40, **known) -> set[tuple[str, str]]:
    """Every question and answer that the task has for the scene."""
    return {(d.question, d.answer) for d in drafts(task, scene(*objects, **known), split=split, draws=draws)}


def found(task: str, *objects: Obj, draws: int = 60, **known) -> dict[str, tuple[list, list]]:
    """By phrase: the boxes of the answer and those of each step."""
    here = drafts(task, scene(*objects, **known), draws=draws)
    return {d.phrase: (d.boxes, [step.boxes for step in d.steps]) for d in here}
