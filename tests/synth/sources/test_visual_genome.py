"""Visual Genome: one object each, with its traits, relations and regions."""

import pytest

from synth.errors import SourceError
from synth.sources.options import FolderOptions
from tests.synth.sources.made import draw, dump
from tests.synth.sources.opened import faults, listed, opened, scenes


def thing(number, name, x, y, w, h):
    return {"object_id": number, "x": x, "y": y, "w": w, "h": h, "names": [name], "synsets": [f"{name}.n.01"]}


@pytest.fixture
def folder(tmp_path):
    draw(tmp_path / "VG_100K_2" / "1.jpg")
    url = "https://cs.stanford.edu/people/rak248/VG_100K_2/1.jpg"
    dump(tmp_path / "image_data.json", [{"image_id": 1, "url": url, "width": 64, "height": 48, "coco_id": None}, 5])
    objects = [
        {**thing(10, "car", 0, 0, 20, 20), "merged_object_ids": [19]}, thing(11, "Car ", 1, 0, 20, 20),
        thing(12, "car", 40, 0, 20, 20), thing(13, "tree", 22, 5, 10, 30), thing(14, "sky", 0, 0, 64, 0),
    ]  # fmt: skip
    dump(
        tmp_path / "objects.json",
        [{"image_id": 1, "objects": objects, "image_url": url}, {"image_id": 3, "objects": []}],
    )
    described = [
        {**thing(10, "car", 0, 0, 20, 20), "attributes": ["Red", "parked"]},
        {**thing(11, "car", 0, 0, 20, 20), "attributes": ["old", "parked"]},
        {**thing(13, "tree", 0, 0, 1, 1), "attributes": ["gray", "tall"]},
    ]  # fmt: skip
    dump(tmp_path / "attributes.json", [{"image_id": 1, "attributes": described}])
    ends = (("NEXT  to", 19, 13), ("under", 12, 14), ("is", 10, 11))
    relations = [
        {"relationship_id": k, "predicate": predicate, "subject": {"object_id": one}, "object": {"object_id": other}}
        for k, (predicate, one, other) in enumerate(ends)
    ]
    dump(tmp_path / "relationships.json", [{"image_id": 1, "relationships": relations}])
    regions = [
        {"region_id": 1, "image_id": 1, "phrase": " a red car ", "x": 0, "y": 0, "width": 20, "height": 20},
        {"region_id": 2, "image_id": 1, "phrase": "off", "x": 60, "y": 0, "width": 20, "height": 20},
    ]
    dump(tmp_path / "region_descriptions.json", [{"id": 1, "regions": regions}])
    return tmp_path


def test_objects_relations_regions_and_traits(folder):
    scene = scenes("auto", folder)["VG_100K_2/1.jpg"]
    assert scene.source == "visual_genome" and scene.image_bytes()[1] == "jpg"
    assert listed(scene) == [("car", (0, 0, 20, 20)), ("car", (40, 0, 60, 20)), ("tree", (22, 5, 32, 35))]
    assert [o.traits for o in scene.objects] == [("red", "parked", "old"), (), ("tall",)]
    assert [o.attributes for o in scene.objects] == [{}, {}, {"colour": "grey"}], "the other car may be red as well"
    ids = [o.id for o in scene.objects]
    assert [(r.subject, r.predicate, r.object) for r in scene.relations] == [(ids[0], "next to", ids[2])]
    assert [(r.text, r.box, r.unique) for r in scene.regions] == [("a red car", (0, 0, 20, 20), False)]
    assert scene.vocabulary == ("car", "tree")


def test_bad_rows_are_named(folder):
    assert faults("visual_genome", folder) == [
        ("annotation of an unlisted picture", "objects.json: image 3"),
        ("box outside the picture", "VG_100K_2/1.jpg: region 'off'"),
        ("row without image_id", "image_data.json: 1"),
        ("zero area", "VG_100K_2/1.jpg: object 14"),
    ]


def test_without_image_data_it_raises(tmp_path):
    with pytest.raises(SourceError, match="image_data.json"):
        opened("visual_genome", FolderOptions(path=str(tmp_path)))
