"""How hard a question is: each part of the formula, the filter, and what rendered pictures can be told to be."""

import hashlib
import json

import numpy as np
import pytest

from synth.__main__ import settings_from
from synth.errors import SettingsError
from synth.settings import Settings
from synth.shard import scene_records
from synth.sources.rendered import RenderedOptions, RenderedSource
from tests.synth.by_hand import drafts, scene, thing

CAT = thing(0, "cat", 10, 10, 60, 60)


def hardness(task, *objects, phrase=None):
    return {d.difficulty for d in drafts(task, scene(*objects)) if phrase in (None, d.phrase)}


def others(count):
    return [thing(k, f"name{k}", 12 * k, 60, 12 * k + 11, 99) for k in range(1, count + 1)]


@pytest.mark.parametrize(
    "objects, level",
    [
        ((CAT,), 1),
        ((CAT, *others(3)), 1),
        ((CAT, *others(4)), 2),  # five things in the picture
        ((CAT, *others(9)), 3),  # ten
        ((thing(0, "cat", 10, 10, 30, 32),), 2),  # 2.2 percent of the picture
        ((thing(0, "cat", 10, 10, 16, 16),), 3),  # 0.18 percent
        ((thing(0, "cat", 10, 10, 16, 16), *others(9)), 5),
    ],
)
def test_crowds_and_small_things_are_harder(objects, level):
    assert hardness("find_one", *objects, phrase="cat") == {level}


@pytest.mark.parametrize("count, level", [(1, 1), (2, 2), (3, 3), (4, 3)])
def test_things_of_the_same_name_are_harder(count, level):
    stars = [thing(k, "star", 50 * k, 0, 50 * k + 40, 40, colour=f"c{k}") for k in range(count)]
    assert hardness("find_one", *stars) == {level}


def test_each_step_is_harder():
    key, dog, oven = (
        thing(0, "key", 20, 70, 45, 99), thing(1, "dog", 50, 25, 110, 85), thing(2, "oven", 8, 10, 52, 30)
    )  # fmt: skip
    assert hardness("find_one", key, dog, oven) == {1}
    assert hardness("relation", key, dog, oven) == {2}
    assert hardness("multi_hop", key, dog, oven) == {3}
    stars = [thing(k, "star", 50 * k, 0, 50 * k + 40, 40) for k in range(4)]
    assert hardness("count_by_pointing", *stars) == {5}  # never more


@pytest.mark.parametrize("limits", [[1, 1], [2, 4], [5, 5]])
def test_only_questions_of_the_chosen_difficulty_are_kept_and_nothing_else_changes(limits):
    kept = total = 0
    for k in range(8):
        picture = RenderedSource(RenderedOptions(objects=[4, 7])).scene(k, "train", 0)
        names = Settings().task_names()
        every = scene_records(picture, Settings(), names)[0]
        chosen = scene_records(picture, Settings(difficulty=limits), names)[0]
        assert chosen == [row for row in every if limits[0] <= row["difficulty"] <= limits[1]]
        kept, total = kept + len(chosen), total + len(every)
    assert 0 < kept < total


def test_questions_per_image_are_drawn_from_those_of_the_chosen_difficulty():
    picture = RenderedSource().scene(0, "train", 0)
    chosen = Settings(difficulty=[2, 5], questions_per_image=6)
    rows = scene_records(picture, chosen, chosen.task_names())[0]
    assert len(rows) == 6 and all(row["difficulty"] >= 2 for row in rows)


@pytest.mark.parametrize(
    "override, said",
    [("difficulty=3", "range of whole numbers from 1 to 5"), ("difficulty=[4,2]", "range"),
     ("difficulty=[0,5]", "range"), ("rendered.objects=[0,3]", "from 1 to 40"), ("rendered.objects=4", "from 1 to 40"),
     ("rendered.alike=1.5", "rendered.alike"), ("rendered.overlap=0.9", "crumbs"), ("rendered.side=16", "64 to 2048"),
     ("rendered.sied=256", "rendered.side")],
)  # fmt: skip
def test_settings_that_cannot_be_are_refused(override, said):
    with pytest.raises(SettingsError) as caught:
        settings_from([override]).check()
    assert said in str(caught.value)


def test_settings_arrive_from_the_command_line():
    made = settings_from(["difficulty=[2,4]", "rendered.objects=[3,9]", "rendered.side=256", "rendered.alike=1"])
    made.check()
    assert (list(made.difficulty), list(made.rendered.objects), made.rendered.side) == ([2, 4], [3, 9], 256)


def pictures(count=50, **options):
    source = RenderedSource(RenderedOptions(**options))
    return [source.scene(k, "train", 0) for k in range(count)]


def test_the_defaults_draw_what_they_drew_before_there_were_options():
    """Every box comes from the pixels drawn, so that these digits change with any of them."""
    digest = hashlib.sha256()
    for here in pictures():
        things = [[o.name, o.box, o.attributes, o.kind, round(o.visible, 6)] for o in here.objects]
        digest.update(json.dumps([here.background, things]).encode())
    assert digest.hexdigest() == "f2bce491e5a0a2538673ec557d88820f6a4992497e13c3cf0d7aae87cf26e33c"


def share(here):
    return np.mean([o.area / (here.width * here.height) for o in here.objects])


def test_a_larger_side_scales_all():
    small, large = pictures(20), pictures(20, side=384)
    assert {(here.width, here.height) for here in large} == {(384, 384)}
    assert {len(here.image_bytes()[0]) > 5000 for here in large} == {True}
    assert np.mean([share(h) for h in large]) == pytest.approx(np.mean([share(h) for h in small]), rel=0.15)
    said = [[o.attributes.get("size") for h in group for o in h.objects] for group in (small, large)]
    for word in ("small", "large"):
        assert said[1].count(word) / len(said[1]) == pytest.approx(said[0].count(word) / len(said[0]), abs=0.12)


def test_more_things_shrink_and_fewer_are_as_told():
    many = pictures(20, objects=[9, 12])
    assert np.mean([len(h.objects) for h in many]) > 8
    assert {len(h.objects) for h in pictures(20, objects=[1, 1])} == {1}
    assert {len(h.objects) for h in pictures(40, objects=[2, 3])} == {2, 3}


def test_look_alikes_come_as_often_as_told():
    def alike(chance):
        names = [[o.name for o in here.objects] for here in pictures(40, alike=chance)]
        return sum(len(n) - len(set(n)) for n in names) / sum(len(n) - 1 for n in names)

    assert alike(0) < 0.15 and alike(1) == 1


def test_no_more_overlap_than_told():
    def worst(here):
        boxes = [o.box for o in here.objects]
        common = [
            max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
            for k, a in enumerate(boxes) for b in boxes[:k]
        ]  # fmt: skip
        return max(common, default=0)

    assert max(map(worst, pictures(40, overlap=0))) == 0 < max(map(worst, pictures(40, overlap=0.6)))
