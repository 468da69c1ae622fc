"""CVAT for images 1.1: shapes, attributes, subsets, and no document types."""

import math

import numpy as np
import pytest

from synth.errors import SourceError
from tests.synth.sources.made import draw, dump
from tests.synth.sources.opened import faults, listed, opened, scenes

XML = """<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version>
<meta><task><id>1</id><labels><label><name>car</name><color>#f00</color><attributes></attributes></label>
<label><name>person</name></label><label><name>dog</name></label></labels></task></meta>
<image id="0" name="a.jpg" subset="Train" width="64" height="48">
<box label="car" source="manual" occluded="0" xtl="1.5" ytl="2.0" xbr="20.0" ybr="12.0" z_order="0">
<attribute name="color">Red</attribute><attribute name="parked">true</attribute><attribute name="taxi">false</attribute>
<attribute name="make">Lada</attribute></box>
<polygon label="person" source="manual" occluded="0" points="30.0,10.0;40.0,10.0;40.0,30.0;30.0,30.0" z_order="0"/>
<mask label="person" source="manual" occluded="0" rle="1, 2, 1, 4" left="50" top="20" width="4" height="2" z_order="0"/>
</image>
<image id="1" name="b.jpg" subset="Validation" width="64" height="48">
<box label="car" rotation="90.0" xtl="20.0" ytl="20.0" xbr="40.0" ybr="30.0"/>
<ellipse label="person" cx="10.0" cy="10.0" rx="5.0" ry="4.0"/>
<points label="dog" points="30.0,10.0"/><box label="dog" xtl="1" ytl="1" xbr="9" ybr="9"/>
<box label="car" xtl="1" ytl="1" xbr="x" ybr="9"/>
</image><image id="2" width="4" height="4"/></annotations>"""


@pytest.fixture
def folder(tmp_path):
    draw(tmp_path / "images" / "a.jpg", tmp_path / "images" / "b.jpg")
    dump(tmp_path / "annotations.xml", XML)
    return tmp_path


def test_shapes_attributes_and_subsets(folder):
    scene = scenes("auto", folder, "train")["a.jpg"]
    assert scene.source == "cvat" and scene.image_bytes()[1] == "jpg" and scene.vocabulary == ("car", "dog", "person")
    assert listed(scene) == [("car", (1.5, 2, 20, 12)), ("person", (30, 10, 40, 30)), ("person", (50, 20, 54, 22))]
    car, person, other = scene.objects
    assert car.attributes == {"colour": "red"} and car.traits == ("parked", "Lada") and car.pixels() is None
    assert person.pixels().sum() == 200 and person.pixels()[10:30, 30:40].all()
    assert np.array_equal(other.pixels()[20:22, 50:54], [[0, 1, 1, 0], [1, 1, 1, 1]]) and other.pixels().sum() == 6


def test_a_turned_box_and_an_ellipse(folder):
    xml = XML.replace('<box label="car" xtl="1" ytl="1" xbr="x" ybr="9"/>', "")
    dump(folder / "annotations.xml", xml)
    scene = scenes("cvat", folder, "val")["b.jpg"]
    assert listed(scene) == [("car", (25, 15, 35, 35)), ("person", (5, 6, 15, 14))]
    assert scene.objects[1].pixels().sum() == pytest.approx(math.pi * 20, rel=0.1)
    assert scene.vocabulary == ("car", "person"), (
        "a dog marked by a point has no extent: it is neither there nor absent"
    )


def test_bad_shapes_are_named(folder):
    assert faults("cvat", folder) == [
        ("box is not four numbers", "b.jpg: box 5"),
        ("box is not four numbers", "b.jpg: points 3"),
        ("picture without a file name", "image 2"),
        ("same name as a crowd or a bad box", "b.jpg: car"),
        ("same name as a crowd or a bad box", "b.jpg: dog"),
    ]


@pytest.mark.parametrize(
    "text", ["<annotations><image", "<!DOCTYPE a [<!ENTITY x 'y'>]><annotations><image/></annotations>"]
)
def test_a_torn_file_and_a_document_type_raise(folder, text):
    dump(folder / "annotations.xml", text)
    with pytest.raises(SourceError, match="CVAT"):
        opened("cvat", folder)
