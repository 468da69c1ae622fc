"""Open Images: fractions become pixels, groups are crowds, and only verified names are absent."""

import pytest

from synth.errors import SourceError
from tests.synth.sources.made import draw, dump
from tests.synth.sources.opened import faults, listed, opened, scenes

BOXES = """ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside
0001,xclick,/m/01,1,0.25,0.5,0.5,1.0,0,0,0,0,0
0002,xclick,/m/01,1,0.1,0.2,0.1,0.2,0,0,0,0,0
0001,xclick,/m/02,1,0,1,0,0.5,0,0,1,0,0
0001,xclick,/m/03,1,0.5,0.25,0.5,1.0,0,0,0,0,0
0001,xclick,/m/99,1,0.5,0.6,0.5,1.0,0,0,0,0,0
0002,xclick
"""
LABELS = """ImageID,Source,LabelName,Confidence
0001,verification,/m/04,0
0001,verification,/m/02,0
0001,verification,/m/05,1
"""


@pytest.fixture
def folder(tmp_path):
    draw(tmp_path / "validation" / "0001.jpg", tmp_path / "validation" / "0002.jpg")
    dump(tmp_path / "validation-annotations-bbox.csv", BOXES)
    dump(tmp_path / "validation-annotations-human-imagelabels-boxable.csv", LABELS)
    names = "/m/01,Tortoise\n/m/02,Traffic light\n/m/03,Cat\n/m/04,Dog\n/m/05,Cup\n"
    dump(tmp_path / "class-descriptions-boxable.csv", names)
    return tmp_path


def test_boxes_groups_and_verified_absence(folder):
    found = scenes("auto", folder, "val")
    first, second = found["validation/0001.jpg"], found["validation/0002.jpg"]
    assert first.source == "open_images" and (first.width, first.height) == (64, 48)
    assert listed(first) == [("tortoise", (16, 24, 32, 48))] and first.vocabulary == ("dog", "tortoise")
    assert listed(second) == [("tortoise", (6.4, 4.8, 12.8, 9.6))] and second.vocabulary == ("tortoise",)
    assert second.image_bytes()[1] == "jpg"


def test_bad_rows_are_named(folder):
    assert faults("open_images", folder) == [
        ("row with too few columns", "validation-annotations-bbox.csv: line 7"),
        ("unknown category", "validation/0001.jpg: box 4"),
        ("zero area", "validation/0001.jpg: box 3"),
    ]


def test_every_split_is_read_with_its_own_name(folder):
    dump(folder / "oidv6-train-annotations-bbox.csv", BOXES.replace("0001", "0003"))
    draw(folder / "train" / "0003.jpg", folder / "train" / "0002.jpg")
    assert set(scenes("open_images", folder, "train")) == {"train/0002.jpg", "train/0003.jpg"}
    assert len(opened("open_images", folder, "all")) == 4


def test_another_csv_raises(folder):
    dump(folder / "validation-annotations-bbox.csv", "a,b\n1,2\n")
    with pytest.raises(SourceError, match="ImageID"):
        opened("open_images", folder)
