"""Pascal VOC folders: its pixel counting, its split lists, its bad files."""

import pytest
from PIL import Image

from tests.synth.sources.opened import faults, listed, scenes

PLACE = "<size><width>{w}</width><height>{h}</height><depth>3</depth></size>"
THING = (
    "<object><name>{name}</name><pose>Unspecified</pose><truncated>0</truncated><difficult>0</difficult>"
    "<bndbox><xmin>{b[0]}</xmin><ymin>{b[1]}</ymin><xmax>{b[2]}</xmax><ymax>{b[3]}</ymax></bndbox></object>"
)


def annotation(file, things, size=PLACE.format(w=50, h=40)):
    objects = "".join(THING.format(name=name, b=box) for name, box in things)
    return f"<annotation><folder>VOC2007</folder><filename>{file}</filename>{size}{objects}</annotation>"


@pytest.fixture
def folder(tmp_path):
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (tmp_path / name).mkdir(parents=True)
    for stem in ("000001", "000002", "000003"):
        Image.new("RGB", (50, 40)).save(tmp_path / "JPEGImages" / f"{stem}.jpg")
    xml = tmp_path / "Annotations"
    (xml / "000001.xml").write_text(annotation("000001.jpg", [("dog", (1, 1, 50, 40)), ("cat", (11, 6, 20, 15))]))
    (xml / "000002.xml").write_text(annotation("000002.jpg", [("cat", (9, 9, 3, 12)), ("dog", (1, 2, 9.5, 9))], ""))
    (xml / "000003.xml").write_text(annotation("000003.jpg", [("dog", ("a", 2, 3, 4))]))
    (tmp_path / "ImageSets/Main/train.txt").write_text("000001\n000003\n")
    (tmp_path / "ImageSets/Main/val.txt").write_text("000002\n")
    return tmp_path


def test_pixels_counted_from_one_become_edges(folder):
    found = {file: listed(scene) for file, scene in scenes("auto", folder).items()}
    assert found == {
        "000001.jpg": [("dog", (0, 0, 50, 40)), ("cat", (10, 5, 20, 15))],
        "000002.jpg": [("dog", (0, 1, 9.5, 9))],
        "000003.jpg": [],
    }


def test_without_a_size_the_pictures_header_tells_it(folder):
    scene = scenes("voc", folder, "val")["000002.jpg"]
    assert (scene.width, scene.height) == (50, 40) and scene.vocabulary == ("dog",)


def test_bad_boxes_and_files_are_named(folder):
    (folder / "Annotations" / "torn.xml").write_text("<annotation><filename>x")
    (folder / "Annotations" / "bare.xml").write_text("<annotation/>")
    grow = '<!DOCTYPE a [<!ENTITY x "cat"><!ENTITY y "&x;&x;">]>' + annotation("000001.jpg", [("&y;", (1, 1, 9, 9))])
    (folder / "Annotations" / "grows.xml").write_text(grow)
    assert faults("voc", folder) == [
        ("annotation without a file name", "Annotations/bare.xml"),
        ("box is not four numbers", "000003.jpg: object 1"),
        ("unreadable annotation file", "Annotations/grows.xml"),
        ("unreadable annotation file", "Annotations/torn.xml"),
        ("zero area", "000002.jpg: object 1"),
    ]


def test_a_name_left_behind_by_renaming_does_not_put_boxes_on_another_picture(folder):
    xml = folder / "Annotations"
    (xml / "000001.xml").write_text(annotation("000002.jpg", [("dog", (1, 1, 50, 40))]))  # both pictures are there
    (xml / "000003.xml").write_text(annotation("C:\\mine\\IMG_7.jpg", [("dog", (1, 1, 9, 9))]))  # only 000003.jpg is
    (folder / "JPEGImages" / "IMG_8.jpg").write_bytes((folder / "JPEGImages" / "000001.jpg").read_bytes())
    (xml / "000008.xml").write_text(annotation("IMG_8.jpg", [("cat", (1, 1, 9, 9))]))  # only IMG_8.jpg is
    (xml / "copy of 000001.xml").write_text(annotation("000001.jpg", [("cat", (1, 1, 9, 9))]))
    found = {file: listed(scene) for file, scene in scenes("voc", folder).items()}
    assert found == {
        "000001.jpg": [("dog", (0, 0, 50, 40))], "000002.jpg": [("dog", (0, 1, 9.5, 9))],
        "000003.jpg": [("dog", (0, 0, 9, 9))], "IMG_8.jpg": [("cat", (0, 0, 9, 9))],
    }  # fmt: skip
    reason = "file name of a picture that another annotation file is about"
    assert (reason, "Annotations/copy of 000001.xml") in faults("voc", folder)


def test_the_lists_decide_the_split(folder):
    assert list(scenes("voc", folder, "train")) == ["000001.jpg", "000003.jpg"]
    assert list(scenes("voc", folder, "val")) == ["000002.jpg"]
