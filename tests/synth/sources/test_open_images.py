"""Open Images: fractions become pixels, groups are crowds, and only verified names are absent."""

import json
import re

import pytest

from synth.errors import SourceError
from synth.settings import Settings
from synth.shard import scene_records
from synth.sources.annotated import fingerprint
from synth.sources.formats import FORMATS
from synth.sources.options import FolderOptions
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


# As the site writes it: a root that no box has, subcategories, parts.
TREE = {
    "LabelName": "/m/0bl9f",
    "Subcategory": [
        {
            "LabelName": "/m/person",
            "Subcategory": [{"LabelName": "/m/man"}, {"LabelName": "/m/woman"}],
            "Part": [{"LabelName": "/m/arm"}],
        },
        {
            "LabelName": "/m/animal",
            "Subcategory": [{"LabelName": "/m/mammal", "Subcategory": [{"LabelName": "/m/cat"}]}],
        },
        {"LabelName": "/m/pet", "Subcategory": [{"LabelName": "/m/cat"}]},
    ],
}
KIN = "person man woman arm animal mammal cat pet car".split()


@pytest.fixture
def family(tmp_path):
    """Three pictures: a man beside a person; an arm and a group of cats; a car. A person verified much as absent."""
    boxes = {"a": ("man", "person"), "b": ("arm", "cat"), "c": ("car",)}
    rows = [
        f"{key},xclick,/m/{name},1,0.{k + 1},0.{k + 4},0.1,0.9,0,0,{int(name == 'cat')},0,0"
        for key, names in boxes.items()
        for k, name in enumerate(names)
    ]
    draw(*(tmp_path / "validation" / f"{key}.jpg" for key in boxes))
    dump(tmp_path / "validation-annotations-bbox.csv", "\n".join([BOXES.splitlines()[0], *rows, ""]))
    labels = [f"{key},verification,/m/{name},0" for key in boxes for name in KIN]
    dump(tmp_path / "validation-imagelabels.csv", "\n".join([LABELS.splitlines()[0], *labels, ""]))
    dump(tmp_path / "class-descriptions-boxable.csv", "".join(f"/m/{name},{name.title()}\n" for name in KIN))
    return tmp_path


def family_scenes(folder):
    return {file[-5]: scene for file, scene in scenes("open_images", folder, "val").items()}


def test_a_man_is_a_person_too_so_nobody_is_told_otherwise(family):
    dump(family / "bbox_labels_600_hierarchy.json", json.dumps(TREE))
    found = family_scenes(family)
    assert listed(found["a"]) == [("man", (6.4, 4.8, 25.6, 43.2))], "one of two persons is not all of them"
    assert set(found["a"].vocabulary) == {"man", "woman", "arm", "animal", "mammal", "cat", "pet", "car"}
    assert set(found["b"].vocabulary) == {"arm", "person", "man", "woman", "car"}, (
        "an arm is part of a person, no person"
    )
    assert set(found["c"].vocabulary) == set(KIN)
    assert ("not every one of the name is annotated", "validation/a.jpg: person") in faults("open_images", family)
    for key, kin in (("a", "person"), ("b", "cat"), ("b", "pet"), ("b", "mammal"), ("b", "animal")):
        said = " ".join(str(asked_of(found[key], seed, "absent", "exists", "count", "find_all")) for seed in range(30))
        assert "woman" in said and not re.search(rf"\b({kin}s?|people)\b" if key == "a" else rf"\b{kin}s?\b", said)


def test_without_the_tree_every_name_stands_for_itself(family):
    found = family_scenes(family)
    assert [name for name, _ in listed(found["a"])] == ["man", "person"] and set(found["a"].vocabulary) == set(KIN)


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"LabelName": 3}', '{"LabelName": "/m/a", "Subcategory": {}}', "[" * 99999]
)
def test_a_tree_that_is_none_raises(family, text):
    dump(family / "bbox_labels_600_hierarchy.json", text)
    with pytest.raises(SourceError, match="hierarchy"):
        opened("open_images", family)


def test_a_new_tree_is_new_data(family):
    def mark():
        return fingerprint("open_images", FORMATS["open_images"], FolderOptions(path=str(family)))

    before = mark()
    dump(family / "bbox_labels_600_hierarchy.json", json.dumps(TREE))
    assert mark() != before


def asked_of(scene, seed, *tasks):
    return [(record["question"], record["answer"]) for record in scene_records(scene, Settings(seed=seed), [*tasks])[0]]
