"""Flickr30k Entities: phrases of captions are tied to the boxes of the things they mean."""

import pytest

from tests.synth.sources.made import draw, dump
from tests.synth.sources.opened import faults, listed, scenes

SENTENCES = """[/EN#1/people Two young guys] with [/EN#2/bodyparts shaggy hair] look at [/EN#3/bodyparts their hands] .
[/EN#1/people Two men] stand near [/EN#4/scene the yard] with [/EN#0/notvisual it] and [/EN#5/other a green bike] .

"""
XML = """<annotation><filename>1000092795.jpg</filename>
<size><width>64</width><height>48</height><depth>3</depth></size>
<object><name>1</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>10</xmax><ymax>20</ymax></bndbox></object>
<object><name>1</name><bndbox><xmin>31</xmin><ymin>1</ymin><xmax>40</xmax><ymax>20</ymax></bndbox></object>
<object><name>2</name><name>6</name><bndbox><xmin>3</xmin><ymin>1</ymin><xmax>8</xmax><ymax>4</ymax></bndbox></object>
<object><name>4</name><scene>1</scene><nobndbox>0</nobndbox></object>
<object><name>5</name><bndbox><xmin>50</xmin><ymin>9</ymin><xmax>44</xmax><ymax>20</ymax></bndbox></object>
<object><name>3</name><scene>0</scene><nobndbox>1</nobndbox></object></annotation>"""


@pytest.fixture
def folder(tmp_path):
    draw(tmp_path / "flickr30k-images" / "1000092795.jpg")
    dump(tmp_path / "Sentences" / "1000092795.txt", SENTENCES)
    dump(tmp_path / "Annotations" / "1000092795.xml", XML)
    dump(tmp_path / "Annotations" / "36979.xml", XML)  # without sentences
    dump(tmp_path / "test.txt", "1000092795\n")
    return tmp_path


def test_captions_carry_their_phrases_and_things_the_shortest_of_them(folder):
    scene = scenes("auto", folder, "test")["1000092795.jpg"]
    assert scene.source == "flickr30k" and scene.image_bytes()[1] == "jpg"
    assert listed(scene) == [("men", (0, 0, 10, 20)), ("men", (30, 0, 40, 20)), ("shaggy hair", (2, 0, 8, 4))]
    first, second = scene.captions
    assert first.text == "Two young guys with shaggy hair look at their hands ."
    assert [(first.text[a:b], ids) for a, b, ids in first.spans] == [("Two young guys", (0, 1)), ("shaggy hair", (2,))]
    assert second.text == "Two men stand near the yard with it and a green bike ."
    assert [(second.text[a:b], ids) for a, b, ids in second.spans] == [("Two men", (0, 1))]
    assert scene.vocabulary == ("men", "shaggy hair")


def test_bad_boxes_and_files_are_named(folder):
    assert faults("flickr30k", folder) == [
        ("unreadable annotation or sentence file", "Annotations/36979.xml"),
        ("zero area", "1000092795.jpg: object 4"),
    ]
