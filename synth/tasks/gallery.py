"""The page that shows every task with a question and its answer in each language: `docs/tasks.md`."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import partial

import numpy as np

from synth.languages import LANGUAGES, load_pack
from synth.rle import Runs
from synth.scene import Caption, Obj, Question, Region, Relation, Scene
from synth.sources.rendered import RenderedOptions, RenderedSource
from synth.tasks.base import TASKS, Draft

_INTRO = """# Tasks

Every task with one record in each language, written by `synth.tasks.gallery.markdown()`: a test keeps this page true.
`{box:k}` in a question is the k-th of the record's `question_boxes`, in a step or an answer the k-th of its own boxes;
`{mask:k}`, in steps and answers, is the mask of what is in that box; `{point:k}`, in questions only, is the k-th of
its `question_points`; a dialect writes the numbers. *Not all annotated* says whether a task is asked of pictures that
hold more than is annotated, as photographs do: it then asks only what stays true whatever else is there. *Instances
missing* says whether it is asked where even of a name that is annotated not every instance is, as in Visual Genome and
Flickr30k: there "the cat" may mean two, so a question shows a box, or asks with words that somebody wrote about one
place. Difficulty goes from 1 to 5 (`synth/tasks/difficulty.py`).

A point is drawn anywhere well inside its thing: on its pixels where the source drew it itself, else in the middle half
of its box and in no other box, also not of a crowd. `find_word` and `read_word` need words on the picture
(`rendered.text=0.3`).

Tasks about two pictures are asked only when they are named, or with the word `several` (`task=several`,
`task=[all,several]`): `all` and the kinds stand for tasks about one picture.

Tasks that answer with masks (`segment_..`) are asked only with `masks=true`, and only of things whose mask is known;
`all` and `grounding` hold them then, and without `masks=true` what these words make is byte for byte what it was before
there were such tasks. Painted words are not asked for. `segment_all` also asks for what is not there, once a picture.
"""
_DRAWS = 10  # of an annotated scene, before a task counts as not asked of it
_PICTURES = 60  # looked through for an example


def markdown() -> str:
    """Return the page; the same text every time."""
    drawn = [RenderedSource(RenderedOptions(objects=[3, 6])).scene(k, "gallery", 0) for k in range(_PICTURES)]
    written = [RenderedSource(RenderedOptions(text=0.5)).scene(k, "gallery", 0) for k in range(_DRAWS)]
    scenes = [*drawn, *[_annotated()] * _DRAWS, *written]
    rows = ["| task | kind | pictures | not all annotated | instances missing |", "|---|---|---|---|---|"]
    photographs = []
    for listed in (True, False):
        whole = _annotated(complete=False, exhaustive=listed)
        fewer = replace(whole, objects=whole.objects[:3], relations=[], regions=[], captions=[], questions=[])
        photographs.append([whole, fewer] * _DRAWS)
    sections = []
    for name, task in sorted(TASKS.items()):
        asked = ["yes" if _first(name, scenes, "en") else "no" for scenes in photographs]
        asked = asked if task.needs_image else ["text alone"] * len(asked)
        pictures = task.pictures if task.needs_image else "none"
        rows.append(f"| [{name}](#{name}) | {task.kind} | {pictures} | {' | '.join(asked)} |")
        sections.append(f"## {name}\n")
        for language in LANGUAGES:
            if name in load_pack(language).tasks:
                sections += [_shown(language, _first(name, scenes, language)), ""]
    return "\n".join([_INTRO, *rows, "", *sections]).rstrip() + "\n"


def _first(name: str, scenes: list[Scene], language: str) -> Draft | None:
    """The draft of the first scene (or of so many scenes in a row) that has one, the hardest of that scene."""
    pack, pictures = load_pack(language), TASKS[name].pictures
    for k in range(len(scenes) - pictures + 1):
        about = tuple(map(pack.translate, scenes[k : k + pictures]))
        asked = about if pictures > 1 else about[0]
        told = TASKS[name].ask(asked, random.Random(f"gallery/{name}/{k}"), "train", pack)
        if told:
            return max((draft for _, draft in told), key=lambda draft: draft.difficulty)
    return None


def _shown(language: str, draft: Draft) -> str:
    lines = [f"- {language}: **{draft.question}** (difficulty {draft.difficulty})"]
    lines += [f"    {k}. {step.text}" for k, step in enumerate(draft.steps, 1)]
    return "\n".join([*lines, f"    - {draft.answer}"])


def _filled(box: tuple[int, int, int, int]) -> np.ndarray:
    """The mask of a thing that fills its box, on a picture of 640 x 480."""
    mask = np.zeros((480, 640), bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    return mask


def _annotated(*, complete: bool = True, exhaustive: bool = True) -> Scene:
    """What an annotated photograph may know: relations, regions, captions, depth beside boxes. The words are ours."""
    known = (  # name, box, colour, depth
        ("man", (60, 60, 160, 300), "black", 2.0), ("horse", (40, 180, 296, 420), "brown", 3.0),
        ("dog", (420, 300, 560, 420), "white", 6.0), ("hat", (90, 40, 130, 70), "red", 2.0),
        ("dog", (300, 350, 390, 420), "black", 9.0),
    )  # fmt: skip
    objects = [
        Obj(
            id=k, name=name, box=tuple(map(float, box)), depth=depth, traits=("wet",) if k == 2 else ("dry",),
            attributes={"colour": colour, "size": "small" if k > 2 else "large"},
            mask=partial(Runs.of, _filled(box)),
        )
        for k, (name, box, colour, depth) in enumerate(known)
    ]  # fmt: skip
    english = Caption(text="A man rides a horse past two dogs.", spans=((0, 5, (0,)), (12, 19, (1,)), (25, 33, (2, 4))))
    japanese = Caption(text="馬に乗った男と二匹の犬。", spans=((0, 1, (1,)), (5, 6, (0,)), (7, 11, (4, 2))))
    captions = ("a wet dog on the grass", "草の上のぬれた犬")
    referring = ("the dog beside the horse", "馬のそばの犬")
    regions = [Region(text=text, box=objects[2].box) for text in captions]
    regions += [Region(text=text, box=objects[4].box, unique=True) for text in referring]
    return Scene(
        index=0, width=640, height=480, objects=objects, image_bytes=lambda: (b"", "jpg"), source="annotated",
        licence="none", complete=complete, exhaustive=exhaustive, vocabulary=("man", "horse", "dog", "hat", "cat"),
        relations=[Relation(subject=0, predicate="wearing", object=3)], regions=regions, captions=[english, japanese],
        questions=[
            Question(
                text="What does the man wear?",
                steps=(("The man is at {box:0}.", (0,)), ("On him is a hat at {box:0}.", (3,))),
                answer="The man wears a hat.",
            )
        ],
    )  # fmt: skip
