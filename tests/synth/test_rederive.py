"""Every question over hundreds of rendered pictures is answered again from its text alone, by code that shares nothing.

`tests/synth/oracle.py` reads the question and the objects; here its answers are compared, and the objects themselves
are held against the pixels.
"""

import io
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from synth.settings import Settings
from synth.shard import grouped, scene_records
from synth.sources.rendered import RenderedOptions, RenderedSource
from synth.tasks import TASKS
from tests.synth import oracle

# Not told of rendered pictures (tests/synth/test_scenes_by_hand.py), or text alone, or one sentence per object of
# what `where` and `measure` are asked about.
NOT_HERE = {
    "predicate", "describe_region", "find_region", "refer", "segment_refer", "nearer", "in_front", "teacher_steps",
}  # fmt: skip
NOT_ASKED = {"numbers", "words", "places", "sizes"}
SETS = {  # pictures, what they are like
    "train": (200, RenderedOptions()),
    "unseen": (40, RenderedOptions()),
    "written": (60, RenderedOptions(text=0.5)),
    "crowded": (40, RenderedOptions(objects=[5, 9], alike=0.6)),
}
SHOWN = {"name_region", "region_colour", "name_point", "find_at_point", "read_word"}  # the question shows a place
INK = {
    "red": (220, 40, 40), "orange": (245, 140, 20), "yellow": (245, 220, 40), "green": (40, 165, 60),
    "blue": (40, 80, 220), "purple": (140, 50, 180), "white": (245, 245, 245), "black": (25, 25, 25),
}  # fmt: skip


@pytest.fixture(scope="module", params=SETS)
def asked(request):
    """(scene, its records) of every picture of a set."""
    count, options = SETS[request.param]
    split = "unseen" if request.param == "unseen" else "train"
    settings = Settings(split=split, rendered=options, task=["all", "several"], masks=True)
    names = [name for name in settings.task_names() if name not in NOT_ASKED]
    source = RenderedSource(options)
    scenes = [source.scene(k, request.param, 5) for k in range(count)]
    return [(scene, scene_records(scene, settings, names, groups)[0], groups.get(2))
            for scene, groups in grouped(scenes, 0, names)]  # fmt: skip


def test_every_answer_is_derived_again_from_the_question(asked):
    told = Counter()
    for scene, records, pair in asked:
        for record in records:
            if record["task"] in SHOWN:
                right = oracle.shown(scene, record)
            elif record["task"] == "same_in_both":
                right = oracle.same(pair, record["question_boxes"][0])
            elif record["more_image_ids"]:
                right = oracle.TELL_OF_TWO[record["task"]](pair, record["question"])
            else:
                right = oracle.TELL[record["task"]](scene, record["question"])
            label = f"{record['id']}: {record['question']} -> {record['answer']}"
            assert record["boxes"] == right.boxes, label
            assert [step["boxes"] for step in record["steps"]] == right.steps, label
            assert right.answer in (None, record["answer"]), f"{label}, not {right.answer}"
            lie_in = [record["picture"], *(step["picture"] for step in record["steps"])]
            assert right.pictures == lie_in if record["more_image_ids"] else not any(lie_in), label
            told[record["task"]] += 1
    words = any(obj.kind == "text" for scene, _, _ in asked for obj in scene.objects)
    assert set(told) == set(TASKS) - NOT_HERE - NOT_ASKED - (set() if words else {"find_word", "read_word"})
    rare = {name for name, task in TASKS.items() if task.pictures == 2}  # half as many pairs as pictures
    assert all(n >= len(asked) / (20 if words or name in rare else 10) for name, n in told.items()), told


@pytest.mark.parametrize("options", [options for _, options in SETS.values()], ids=SETS)
def test_size_words_are_what_boxes_say(options):
    shrink = (5 / max(5, options.objects[1])) ** 0.5
    seen = Counter()
    for k in range(40):
        for obj in RenderedSource(options).scene(k, "train", 5).objects:
            if obj.kind == "text":  # of letters nobody says that they are small by their box
                assert "size" not in obj.attributes
                continue
            side = ((obj.box[2] - obj.box[0]) * (obj.box[3] - obj.box[1])) ** 0.5 / shrink
            assert obj.attributes.get("size") == ("small" if side <= 40 else "large" if side >= 49 else None)
            seen[obj.attributes.get("size")] += 1
    assert min(seen[size] for size in ("small", "large", None)) > 5


def test_boxes_and_colours_are_what_the_pixels_show(asked):
    for scene, *_ in asked[:40]:
        pixels = np.asarray(Image.open(io.BytesIO(scene.image_bytes()[0])).convert("RGB"), float)
        for obj in scene.objects:
            rows, columns = np.flatnonzero(obj.mask.any(1)), np.flatnonzero(obj.mask.any(0))
            assert obj.box == (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
            if "colour" in obj.attributes and obj.mask.sum() > 400:  # of a sliver one sees little but its outline
                seen = np.median(pixels[obj.mask], axis=0)
                nearest = min(INK, key=lambda name: np.abs(seen - INK[name]).sum())
                assert nearest == obj.attributes["colour"], (scene.index, obj.id, seen)
