"""Scenes nobody would draw: boxes and names at random. Whatever is told of one must stand up to the checker."""

import json
import random
from collections import defaultdict
from dataclasses import replace

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from synth.check import faults, scene_from
from synth.languages import load_pack
from synth.languages.say import SayAll
from synth.masks import SceneMasks, add_masks, check_masks
from synth.record import check_record, make_picture, make_record
from synth.scene import Caption, Obj, Region, Relation, Scene
from synth.settings import Settings
from synth.shard import scene_records
from synth.tasks import TASKS

NAMES = ("cat", "star", "sports ball", "scissors", "person", "apple", "{p}", "猫")
WORDS = st.sampled_from(
    ["a dog", "the man on the left.", "赤い車", "", "see {box:0}", "at {point:0}", "{mask:0}", "{p}", "  two\n lines "]
)


@st.composite
def boxes(draw, width, height):
    x1, y1 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    return float(x1), float(y1), float(draw(st.integers(x1 + 1, width))), float(draw(st.integers(y1 + 1, height)))


def _filled(box, width, height):
    mask = np.zeros((height, width), bool)
    x1, y1, x2, y2 = map(int, box)
    mask[y1:y2, x1:x2] = True
    return mask


@st.composite
def scenes(draw):
    width, height = draw(st.integers(8, 300)), draw(st.integers(8, 300))
    count = draw(st.integers(0, 7))
    colours = st.sampled_from([{}, {"colour": "red"}, {"colour": "blue", "size": "small"}, {"size": "large"}])
    objects = [
        Obj(
            id=k, name=draw(st.sampled_from(NAMES)), box=draw(boxes(width, height)), attributes=dict(draw(colours)),
            traits=tuple(draw(st.lists(st.sampled_from(["wooden", "metal", "parked", "{t}"]), max_size=2))),
            depth=draw(st.sampled_from([None, 0.0, 1.0, 1.2, 5.0])),
        )
        for k in range(count)
    ]  # fmt: skip
    objects = [replace(o, mask=draw(st.sampled_from([None, _filled(o.box, width, height)]))) for o in objects]
    ids = st.integers(0, 8)
    spans = st.tuples(st.integers(0, 12), st.integers(0, 12), st.lists(ids, max_size=3).map(tuple))
    predicates = st.sampled_from(["on", "wearing", "has", "ride", "", "in front of", "{r}"])
    relations = st.builds(Relation, subject=ids, predicate=predicates, object=ids)
    regions = st.builds(Region, text=WORDS, box=boxes(width, height), unique=st.booleans())
    captions = st.builds(Caption, text=WORDS, spans=st.lists(spans, max_size=3).map(tuple))
    return Scene(
        index=0, width=width, height=height, objects=objects, image_bytes=lambda: (b"", "jpg"), source="any",
        licence="none", complete=(complete := draw(st.booleans())), exhaustive=complete or draw(st.booleans()),
        background=draw(st.sampled_from(["", "plain"])),
        vocabulary=("cat", "star", "dog", "person"), relations=draw(st.lists(relations, max_size=4)),
        regions=draw(st.lists(regions, max_size=3)), captions=draw(st.lists(captions, max_size=2)),
    )  # fmt: skip


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(scene=scenes(), language=st.sampled_from(["en", "ja"]), split=st.sampled_from(["train", "unseen"]))
def test_what_is_told_passes_the_checker_and_never_contradicts_itself(scene, language, split):
    told = defaultdict(set)
    stored = scene_from(make_picture(scene, "a/b/c"))
    for seed in range(2):
        chosen = Settings(language=language, split=split, seed=seed, masks=True)
        names = [name for name in chosen.task_names() if TASKS[name].needs_image]
        for record in scene_records(scene, chosen, names)[0]:
            add_masks(record, [SceneMasks(scene)])
            check_masks(record)
            assert list(faults(record, stored, masks=True)) == [], record
            assert 1 <= record["difficulty"] <= 5
            # Several captions are true of one picture; all else has one answer.
            if "caption" not in json.loads(record["facts"]) and record["task"] != "describe_region":
                shown = str(record["question_boxes"]), str(record["question_points"])
                key = record["task"], record["question"], *shown
                told[key].add((record["answer"], str(record["boxes"])))
    assert all(len(answers) == 1 for answers in told.values()), {k: v for k, v in told.items() if len(v) > 1}


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(
    first=scenes(), second=scenes(), language=st.sampled_from(["en", "ja"]), split=st.sampled_from(["train", "unseen"])
)
def test_what_is_told_of_two_pictures_passes_the_checker_and_never_contradicts_itself(first, second, language, split):
    pair = (first, replace(second, index=1))
    told = defaultdict(set)
    stored = [scene_from(make_picture(each, "a/b/c")) for each in pair]
    for seed in range(3):
        chosen = Settings(language=language, split=split, seed=seed, task="several")
        for record in scene_records(first, chosen, chosen.task_names(), {2: pair})[0]:
            assert list(faults(record, *stored)) == [], record
            assert list(faults(record, stored[0])) and list(faults(record, None)), "a record about two needs both"
            key = record["task"], record["question"], str(record["question_boxes"])
            told[key].add((record["answer"], str(record["boxes"]), record["picture"]))
    assert all(len(answers) == 1 for answers in told.values()), {k: v for k, v in told.items() if len(v) > 1}


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(scene=scenes(), other=scenes())
def test_facts_of_another_picture_are_refused_or_told_by_the_rules(scene, other):
    """`tell` never trusts its facts: no exception, no box out of the picture."""
    pack = load_pack("en")
    for name, task in TASKS.items():
        here, there = ((scene, other), (other, scene)) if task.pictures == 2 else (scene, other)
        for facts, _ in task.ask(there, random.Random(0), "train", pack) if task.needs_image else ():
            draft = task.draft(here, facts, SayAll(pack, name))
            if draft is not None:
                about = {"task": name, "kind": task.kind, "image_id": "i", "split": "train", "language": "en"}
                more = here[1:] if task.pictures == 2 else ()
                row = make_record(draft, facts=facts, scene=scene, seed="s", k=0, more=more, **about)
                check_record(row, scene.width, scene.height, *((each.width, each.height) for each in more))
