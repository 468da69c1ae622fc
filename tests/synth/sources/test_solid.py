"""3-D pictures: depth orders what covers what, masks are of what is seen. Needs the extra solid."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from synth.check import faults, scene_from
from synth.errors import SettingsError
from synth.record import make_picture
from synth.render import COLOURS
from synth.settings import Settings
from synth.shard import scene_records
from synth.sources import open_source
from synth.sources.solid import SolidOptions

PICTURES = 12


@pytest.fixture(scope="module")
def source():
    pytest.importorskip("pybullet", reason="the extra `solid`, a quarter of a gigabyte, is not installed")
    return open_source(Settings(source="solid"), Path("unused"))


@pytest.mark.slow
def test_masks_boxes_and_colours_are_those_of_the_pixels(source):
    looked_at = 0
    for index in range(PICTURES):
        scene = source.scene(index, "train", 0)
        shown = np.asarray(Image.open(io.BytesIO(scene.image_bytes()[0])).convert("RGB"), float)
        assert shown.shape[:2] == (224, 224)
        for obj in scene.objects:
            rows, columns = np.flatnonzero(obj.mask.any(1)), np.flatnonzero(obj.mask.any(0))
            assert obj.box == (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
            colour = obj.attributes.get("colour")
            if colour not in (None, "white", "black"):
                looked_at += 1
                seen, meant = shown[obj.mask].mean(0), np.asarray(COLOURS[colour], float)
                assert seen @ meant / np.linalg.norm(seen) / np.linalg.norm(meant) > 0.96, (index, obj.phrase)
    assert looked_at > 10


@pytest.mark.slow
def test_what_is_nearer_covers_what_is_farther(source):
    covered = 0
    for index in range(40):
        objects = source.scene(index, "train", 0).objects
        for hidden in objects:
            if hidden.visible > 0.9:
                continue
            x1, y1, x2, y2 = hidden.box
            others = [o for o in objects if o is not hidden]
            beside = [o for o in others if o.box[0] < x2 + 2 and x1 - 2 < o.box[2]]
            over = [o for o in beside if o.box[1] < y2 + 2 and y1 - 2 < o.box[3]]
            if over:
                covered += 1
                assert min(o.depth for o in over) < hidden.depth + 0.1, index
    assert covered >= 3


@pytest.mark.slow
def test_records_of_depth_are_made_and_pass(source):
    told = set()
    settings = Settings(source="solid")
    for index in range(PICTURES):
        scene = source.scene(index, "train", 0)
        stored = scene_from(make_picture(scene, "a/b/c"))
        for record in scene_records(scene, settings, settings.task_names())[0]:
            told.add(record["task"])
            assert list(faults(record, stored if record["image_id"] else None)) == []
    assert {"nearer", "in_front", "find_one", "colour", "superlative"} <= told
    first = source.scene(3, "train", 0).image_bytes()
    source.scene(4, "train", 0)
    assert source.scene(3, "train", 0).image_bytes() == first != source.scene(3, "val", 0).image_bytes()


def test_without_the_library_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pybullet", None)
    with pytest.raises(SettingsError, match=r"(?s)needs PyBullet.*lynx-moe\[solid\]"):
        open_source(Settings(source="solid"), Path("unused"))
    with pytest.raises(SettingsError, match="solid.objects"):
        open_source(Settings(source="solid", solid=SolidOptions(objects=[0, 9])), Path("unused"))
