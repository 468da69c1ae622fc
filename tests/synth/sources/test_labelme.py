"""LabelMe's JSON beside its pictures: every kind of shape."""

import pytest

from tests.synth.sources.made import draw, dump
from tests.synth.sources.opened import faults, listed, scenes


def shape(label, form, *points, group=None):
    points = [list(p) for p in points]
    return {"label": label, "points": points, "group_id": group, "shape_type": form, "flags": {}}


def annotation(path, *shapes):
    return {
        "version": "5.4.1", "flags": {}, "shapes": list(shapes), "imagePath": path, "imageData": None,
        "imageHeight": 48, "imageWidth": 64,
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    draw(tmp_path / "a.jpg", tmp_path / "sub" / "images" / "b.jpg")
    dump(
        tmp_path / "a.json",
        annotation(
            "a.jpg", shape("cat", "polygon", (1, 2), (11, 2), (11, 12)), shape("cup", "rectangle", (30, 20), (20, 10)),
            shape("ball", "circle", (40, 20), (43, 24)), shape("dog", "polygon", (1, 30), (5, 30), (5, 40), group=1),
            shape("dog", "polygon", (10, 30), (15, 30), (15, 44), group=1), shape("rope", "line", (1, 1), (9, 9)),
            shape("rope", "polygon", (1, 1), (9, 9), (1, 9)), shape("", "rectangle", (0, 0), (5, 5)),
        ),
    )  # fmt: skip
    dump(tmp_path / "sub" / "b.json", annotation("images\\b.jpg", shape("cat", "polygon", ("x", 2), (1, 2), (3, 4))))
    dump(tmp_path / "c.json", annotation("..\\..\\secret.jpg"))
    dump(tmp_path / "d.json", '{"shapes": 3}')
    return tmp_path


def test_shapes_become_boxes_and_groups_one_object(folder):
    (folder / "c.json").unlink()
    found = scenes("auto", folder)
    scene = found["a.jpg"]
    assert scene.source == "labelme"
    assert listed(scene) == [
        ("cat", (1, 2, 11, 12)), ("cup", (20, 10, 30, 20)), ("ball", (35, 15, 45, 25)), ("dog", (1, 30, 15, 44)),
    ]  # fmt: skip
    assert found["sub/images/b.jpg"].image_bytes()[1] == "jpg"
    masks = [obj.pixels() for obj in scene.objects]
    assert masks[0].sum() == pytest.approx(50, abs=8) and masks[1].sum() == 100
    assert masks[2].sum() == pytest.approx(78, abs=5) and masks[3][29:45, 1:6].any() and masks[3][29:45, 10:16].any()


def test_bad_shapes_and_files_are_named_and_a_path_outside_is_refused(folder):
    from synth.sources import PictureFault

    with pytest.raises(PictureFault, match="path leaves the folder"):
        scenes("labelme", folder)
    (folder / "c.json").unlink()
    assert faults("labelme", folder) == [
        ("box is not four numbers", "a.jpg: shape 6"),
        ("box is not four numbers", "sub/images/b.jpg: shape 1"),
        ("same name as a crowd or a bad box", "a.jpg: rope"),
        ("unknown category", "a.jpg: shape 8"),
        ("unreadable annotation file", "d.json"),
    ]
