"""YOLO folders as the tools write them: fractions become pixels of the picture as it is shown."""

import numpy as np
import pytest
from PIL import Image

from synth.errors import SettingsError, SourceError
from synth.sources import FORMATS
from synth.sources.options import FolderOptions
from tests.synth.sources.opened import faults, listed, opened, scenes

YAML = "path: .\ntrain: images/train\nval: images/val\nnames:\n  0: cat\n  1: traffic light\n"


@pytest.fixture
def folder(tmp_path):
    """The layout of Ultralytics: images/SPLIT and labels/SPLIT."""
    for name, label in {
        "train/a": "0 0.5 0.5 0.2 0.4\n1 0.1 0.1 0.2 0.2\n",
        "train/b": "1 0.25 0.25 0.75 0.25 0.75 0.75 0.25 0.75\n",
        "val/c": None,
        "val/d": "0 0.5 0.5 0.0 0.4\n7 0.5 0.5 0.2 0.2\n1 0.5 0.5\n1 0.5 x 0.2 0.2\n0 0.95 0.5 0.3 0.1\n\n",
    }.items():
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "labels" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (100, 50), "green").save(tmp_path / "images" / f"{name}.jpg")
        if label is not None:
            (tmp_path / "labels" / f"{name}.txt").write_text(label)
    (tmp_path / "labels" / "val" / "lost.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    (tmp_path / "data.yaml").write_text(YAML)
    return tmp_path


def test_centres_and_polygons_become_boxes_in_pixels(folder):
    found = scenes("yolo", folder)
    assert {file: listed(scene) for file, scene in found.items()} == {
        "images/train/a.jpg": [("cat", (40, 15, 60, 35)), ("traffic light", (0, 0, 20, 10))],
        "images/train/b.jpg": [("traffic light", (25, 12.5, 75, 37.5))],
        "images/val/c.jpg": [],
        "images/val/d.jpg": [],
    }
    assert all((scene.width, scene.height) == (100, 50) for scene in found.values())
    assert found["images/val/c.jpg"].vocabulary == ("cat", "traffic light")
    assert found["images/val/d.jpg"].vocabulary == ()


def test_a_polygon_is_also_a_mask(folder):
    mask = scenes("yolo", folder)["images/train/b.jpg"].objects[0].pixels()
    assert mask.shape == (50, 100)
    rows, columns = np.nonzero(mask)
    assert (columns.min(), columns.max()) == (25, 74) and abs(len(rows) - 50 * 25) <= 50


def test_bad_lines_and_labels_without_a_picture_are_named(folder):
    assert faults("yolo", folder) == [
        ("annotation of an unlisted picture", "labels/val/lost.txt"),
        ("box is not four numbers", "images/val/d.jpg: line 3"),
        ("box is not four numbers", "images/val/d.jpg: line 4"),
        ("box outside the picture", "images/val/d.jpg: line 5"),
        ("unknown category", "images/val/d.jpg: line 2"),
        ("zero area", "images/val/d.jpg: line 1"),
    ]


def test_the_folders_own_splits_are_kept_and_others_are_not_there(folder):
    assert set(scenes("yolo", folder, "train")) == {"images/train/a.jpg", "images/train/b.jpg"}
    assert set(scenes("yolo", folder, "validation")) == set(scenes("yolo", folder, "unseen"))
    with pytest.raises(SettingsError, match="train, val, unseen, all"):
        opened("yolo", folder, "test")
    with pytest.raises(SettingsError, match="val_fraction"):
        opened("yolo", FolderOptions(path=str(folder), val_fraction=0.5))


def test_the_layout_of_roboflow_and_lists_of_files(tmp_path):
    for split in ("train", "valid"):
        for part in ("images", "labels"):
            (tmp_path / split / part).mkdir(parents=True)
        Image.new("RGB", (10, 10)).save(tmp_path / split / "images" / f"{split}.png")
        (tmp_path / split / "labels" / f"{split}.txt").write_text("0 0.5 0.5 1 1")
    (tmp_path / "data.yaml").write_text("train: ../train/images\nval: ../valid/images\nnc: 1\nnames: ['dog']\n")
    assert list(scenes("auto", tmp_path, "val")) == ["valid/images/valid.png"]
    (tmp_path / "test.txt").write_text("./valid/images/valid.png\n")
    (tmp_path / "data.yaml").write_text("test: test.txt\nnames: ['dog']\n")
    assert list(scenes("yolo", tmp_path, "test")) == ["valid/images/valid.png"]


def test_a_flat_folder_is_divided_by_file_name(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    for k in range(60):
        Image.new("RGB", (4, 4)).save(tmp_path / "images" / f"{k}.PNG")
        (tmp_path / "labels" / f"{k}.txt").write_text("0 .5 .5 1 1")
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    options = FolderOptions(path=str(tmp_path), val_fraction=0.5)
    train, val = (set(scenes("yolo", options, split)) for split in ("train", "val"))
    assert not train & val and len(train | val) == 60 and 15 < len(val) < 45
    assert faults("yolo", options) == []


@pytest.mark.parametrize("text", ["train: x", "names: 3", "names: {a: b}", "[", "- 1"])
def test_a_yaml_without_names_raises(folder, text):
    (folder / "data.yaml").write_text(text)
    with pytest.raises(SourceError, match="category names"):
        opened("yolo", folder)


def test_a_yaml_tag_runs_nothing(folder):
    (folder / "data.yaml").write_text(f"names: !!python/object/apply:os.mkdir ['{folder}/ran']\n")
    with pytest.raises(SourceError):
        opened("yolo", folder)
    assert not (folder / "ran").exists()


def test_auto_finds_it_and_changed_labels_are_other_settings(folder):
    assert list(scenes("auto", folder).values())[0].source == "yolo"
    form = FORMATS["yolo"]
    before = opened_digest(form, folder)
    (folder / "labels" / "train" / "a.txt").write_text("0 0.5 0.5 0.2 0.3\n")
    assert opened_digest(form, folder) != before


def opened_digest(form, folder):
    from synth.sources.annotated import fingerprint

    return fingerprint("yolo", form, FolderOptions(path=str(folder)))["annotations_sha256"]
