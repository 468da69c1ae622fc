"""Four pictures of every pair: what they show is told by their number, and lies where it says."""

import io

import numpy as np
import pytest
from PIL import Image

from synth.render import SHOWN
from synth.settings import Settings
from synth.shard import scene_records
from synth.sources.arranged import SIDES, ArrangedSource
from synth.tasks.space import lies

SOURCE = ArrangedSource()


@pytest.mark.parametrize("pair", range(12))
def test_the_four_pictures_of_a_pair_show_its_two_things_each_way_once(pair):
    scenes = [SOURCE.scene(4 * pair + k, "train", 0) for k in range(4)]
    assert len({tuple(obj.phrase for obj in scene.objects) for scene in scenes}) == 1
    for side, scene in zip(SIDES, scenes, strict=True):
        first, second = scene.objects
        assert first.name != second.name
        assert [each for each in SIDES if lies(first, each, second)] == [side]
        assert first.visible == second.visible == 1.0
        assert not {first.name, second.name} & set(SHOWN.get(scene.background, ()))


def test_a_picture_is_the_same_for_ever_and_another_for_another_seed_or_split():
    def bytes_of(*arguments):
        return SOURCE.scene(*arguments).image_bytes()[0]

    assert bytes_of(5, "train", 0) == bytes_of(5, "train", 0)
    assert len({bytes_of(5, "train", 0), bytes_of(5, "train", 1), bytes_of(5, "validation", 0)}) == 3


def test_a_things_mask_is_where_its_picture_is_and_every_picture_has_one_question_of_sides():
    scene = SOURCE.scene(0, "train", 0)
    assert Image.open(io.BytesIO(scene.image_bytes()[0])).size == (128, 128)
    for obj in scene.objects:
        rows, columns = np.nonzero(obj.mask)
        assert obj.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    records, _ = scene_records(scene, Settings(source="arranged"), ["side"], {})
    assert len(records) == 1 and records[0]["question"].startswith("Is the ")
