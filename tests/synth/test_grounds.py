"""A photographic ground shows things too: what it shows is never said to be missing, nor to be the only one."""

from collections import Counter
from dataclasses import replace

from synth.render import COLOURS, SHOWN, photos
from synth.scene import Obj
from synth.settings import Settings
from synth.shard import scene_records
from synth.sources.rendered import RenderedSource
from tests.synth.sources.test_paste import coco_folder
from tests.synth.sources.test_paste import opened as pasted

TASKS = ["absent", "count", "exists", "compare_counts"]


def test_what_a_ground_shows_is_neither_drawn_nor_said_to_be_missing():
    met = set()
    for index in range(150):
        scene = RenderedSource().scene(index, "train", 0)
        for name in SHOWN.get(scene.background, ()):
            met.add(name)
            assert not scene.named(name), "nobody could say how many there are"
            told = scene_records(scene, Settings(), TASKS)[0]
            assert not [row["question"] for row in told if f" {name}" in row["question"]]
    assert met == {name for names in SHOWN.values() for name in names} and set(SHOWN) <= set(photos())


def test_a_ground_of_stars_shows_no_star_of_another_colour_to_ask_for():
    scenes = (RenderedSource().scene(k, "train", 0) for k in range(300))
    stars = next(scene for scene in scenes if scene.background == "stars")
    star = Obj(id=99, name="star", box=(0, 0, 30, 30), attributes={"colour": "red"})
    asked = Counter()
    for ground in ("stars", "plain"):
        vocabulary = stars.vocabulary if ground == "stars" else (*stars.vocabulary, "star")
        scene = replace(stars, objects=[star], background=ground, vocabulary=vocabulary)
        for seed in range(30):
            told = scene_records(scene, Settings(seed=seed), ["absent", "exists"])[0]
            others = [f"{colour} star" for colour in COLOURS if colour != "red"]
            asked[ground] += sum(other in row["question"] for row in told for other in others)
    assert asked["stars"] == 0 < asked["plain"]


def test_a_pasted_picture_on_a_photograph_is_not_complete(tmp_path):
    source = pasted(coco_folder(tmp_path / "coco"), tmp_path / "work")
    grounds = {}
    for index in range(20):
        scene = source.scene(index, "train", 0)
        grounds.setdefault(scene.background in photos(), set()).add(scene.complete)
    assert grounds[True] == {False} and True in grounds[False]
