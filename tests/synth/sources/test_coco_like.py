"""The formats that share COCO's file: LVIS, Objects365, panoptic, and COCO's own layout of folders."""

import numpy as np
import pytest
from PIL import Image

import synth
from synth.errors import SettingsError, SourceError
from synth.sources import FORMATS
from synth.sources.options import FolderOptions
from tests.synth.sources.made import box, draw, dump, image
from tests.synth.sources.opened import faults, listed, opened, scenes


def test_cocos_own_folders_are_found_by_the_name_of_the_file(tmp_path):
    draw(tmp_path / "val2017" / "000000000139.jpg")
    polygon = [[10, 10, 30, 10, 30, 20, 10, 20]]
    content = {
        "info": {"year": 2017}, "licenses": [{"id": 4, "name": "Attribution License", "url": "u"}],
        "images": [image(139, "000000000139.jpg", license=4, coco_url="u", date_captured="2013")],
        "annotations": [box(1, 139, 18, [10, 10, 20, 10], segmentation=polygon),
                        box(2, 139, 18, [40, 10, 20, 10], segmentation={"size": [48, 64], "counts": "broken"})],
        "categories": [{"id": 18, "name": "dog", "supercategory": "animal"}],
    }  # fmt: skip
    dump(tmp_path / "annotations" / "instances_val2017.json", content)
    scene = scenes("auto", tmp_path)["000000000139.jpg"]
    assert scene.source == "coco" and scene.licence == "Attribution License" and scene.image_bytes()[1] == "jpg"
    assert listed(scene) == [("dog", (10, 10, 30, 20)), ("dog", (40, 10, 60, 20))]
    first, second = (obj.pixels() for obj in scene.objects)
    assert first.sum() == 200 and first[10:20, 10:30].all() and second is None
    dump(tmp_path / "annotations" / "instances_train2017.json", content)
    with pytest.raises(SettingsError, match="instances_val2017"):
        opened("coco", tmp_path)
    options = FolderOptions(path=str(tmp_path), annotations="annotations/instances_val2017.json")
    assert len(opened("coco", options)) == 1


def test_rows_that_are_no_coco_rows_are_counted_and_the_rest_is_read(tmp_path):
    images = [image(1, "a.png"), {"id": 2}, "x", image(3, "c.png", size=(0, 4)), image(4, "d.png", size=("9", 4))]
    images += [image([6], "e.png"), image(7, "f.png", size=(64.0, 48.0))]
    annotations = [
        box(1, 1, 1, [0, 0, 5, 5]),
        box(2, [1], 1, [0, 0, 5, 5]),
        None,
        box(3, 7, {}, [1, 1, 2, 2]),
    ]
    categories = [{"id": 1, "name": "cat"}, {"id": 2}, 7]
    dump(tmp_path / "instances.json", {"images": images, "annotations": annotations, "categories": categories})
    assert {file: listed(scene) for file, scene in scenes("coco", tmp_path).items()} == {
        "a.png": [("cat", (0, 0, 5, 5))], "f.png": [],
    }  # fmt: skip
    assert [reason for reason, _ in faults("coco", tmp_path)] == [
        "category without id and name", "category without id and name", "picture size is not two whole numbers",
        "picture size is not two whole numbers", "row of annotations without image_id",
        "row of annotations without image_id", "row of images without id and file_name",
        "row of images without id and file_name", "row of images without id and file_name", "unknown category",
    ]  # fmt: skip


LVIS = {
    "info": {}, "licenses": [{"id": 1, "name": "CC BY", "url": "u"}],
    "categories": [{"id": k, "name": name, "frequency": "c", "synset": "s", "synonyms": [name]} for k, name in
                   ((3, "alarm_clock"), (4, "bow_(weapon)"), (5, "bow_(decorative_ribbons)"), (6, "mouse_(animal)"))],
    "images": [
        {"id": 9, "width": 64, "height": 48, "license": 1, "neg_category_ids": [5, 999],
         "not_exhaustive_category_ids": [4], "coco_url": "http://images.cocodataset.org/train2017/000000000009.jpg"},
        {"id": 10, "width": 64, "height": 48},
    ],
    "annotations": [
        {"id": 1, "image_id": 9, "category_id": 3, "bbox": [1, 2, 10, 10], "area": 1, "segmentation": [[1, 2, 9, 9]]},
        {"id": 2, "image_id": 9, "category_id": 4, "bbox": [20, 2, 10, 10], "area": 1, "segmentation": []},
        {"id": 3, "image_id": 9, "category_id": 6, "bbox": [40, 2, 10, 10], "area": 1, "segmentation": []},
    ],
}  # fmt: skip


def test_lvis_asks_only_about_names_that_were_checked(tmp_path):
    draw(tmp_path / "train2017" / "000000000009.jpg")
    dump(tmp_path / "lvis_v1_train.json", LVIS)
    scene = scenes("auto", tmp_path)["train2017/000000000009.jpg"]
    assert scene.source == "lvis" and scene.image_bytes()[1] == "jpg" and scene.licence == "CC BY"
    assert listed(scene) == [("alarm clock", (1, 2, 11, 12)), ("mouse", (40, 2, 50, 12))]
    assert scene.vocabulary == ("alarm clock", "bow (decorative ribbons)", "mouse")
    assert faults("lvis", tmp_path) == [
        ("not every one of the name is annotated", "train2017/000000000009.jpg: bow (weapon)"),
        ("picture without a file name", "image 10"),
    ]


@pytest.mark.parametrize("place", ["train/patch8", "train", "images/v1/patch8"])
def test_objects365_however_its_archives_were_unpacked(tmp_path, place):
    draw(tmp_path / place / "objects365_v1_00420917.jpg")
    content = {
        "images": [image(420917, "images/v1/patch8/objects365_v1_00420917.jpg", license=5, url="")],
        "annotations": [box(1, 420917, 1, [1, 2, 10, 10], isfake=0, isreflected=0), box(2, 420917, 2, [30, 2, 9, 9]),
                        box(3, 420917, 3, [0, 0, 60, 40], iscrowd=1), box(4, 420917, 3, [5, 5, 6, 6])],
        "categories": [{"id": 1, "name": "Person"}, {"id": 2, "name": "Cabinet/shelf"}, {"id": 3, "name": "Book"},
                       {"id": 4, "name": "Lamp"}],
        "licenses": [],
    }  # fmt: skip
    dump(tmp_path / "zhiyuan_objv2_train.json", content)
    (scene,) = scenes("auto", tmp_path).values()
    assert scene.source == "objects365" and scene.image_bytes()[1] == "jpg"
    assert listed(scene) == [("person", (1, 2, 11, 12)), ("cabinet or shelf", (30, 2, 39, 11))]
    assert scene.vocabulary == ("cabinet or shelf", "lamp", "person")


def panoptic(folder, painted="000000000139.png"):
    ids = np.zeros((48, 64, 3), np.uint8)
    ids[5:15, 10:30] = (44, 1, 0)  # 300
    ids[20:40, 40:60] = (7, 0, 1)  # 65543
    (folder / "annotations/panoptic_val2017").mkdir(parents=True)
    Image.fromarray(ids).save(folder / "annotations/panoptic_val2017/000000000139.png")
    draw(folder / "val2017" / "000000000139.jpg")
    segments = [{"id": 300, "category_id": 1, "iscrowd": 0, "bbox": [10, 5, 20, 10], "area": 200},
                {"id": 65543, "category_id": 2, "iscrowd": 0, "bbox": [40, 20, 20, 20], "area": 400},
                {"id": 9, "category_id": 184, "iscrowd": 0, "bbox": [0, 0, 64, 5], "area": 9},
                {"id": 10, "category_id": 3, "iscrowd": 1, "bbox": [0, 40, 64, 5], "area": 9}]  # fmt: skip
    annotations = [{"image_id": 139, "file_name": painted, "segments_info": segments}]
    categories = [{"id": k, "name": name, "isthing": thing, "supercategory": "s"} for k, name, thing in
                  ((1, "person", 1), (2, "dog", 1), (3, "kite", 1), (4, "cup", 1), (184, "tree", 0))]  # fmt: skip
    content = {"images": [image(139, "000000000139.jpg")], "annotations": annotations, "categories": categories}
    dump(folder / "annotations" / "panoptic_val2017.json", content)
    return ids


def test_panoptic_segments_are_things_with_the_painted_masks(tmp_path):
    ids = panoptic(tmp_path)
    scene = scenes("auto", tmp_path)["000000000139.jpg"]
    assert scene.source == "panoptic" and scene.image_bytes()[1] == "jpg"
    assert listed(scene) == [("person", (10, 5, 30, 15)), ("dog", (40, 20, 60, 40))]
    assert scene.vocabulary == ("cup", "dog", "person")
    assert np.array_equal(scene.objects[0].pixels(), ids[..., 0] == 44)
    assert np.array_equal(scene.objects[1].pixels(), ids[..., 2] == 1)


def test_a_painted_file_outside_is_not_looked_for(tmp_path):
    panoptic(tmp_path, painted="../../secret.png")
    assert ("annotation without segments or a file name", "annotation of image 139") in faults("panoptic", tmp_path)


def test_a_folder_of_nothing_known_says_what_was_looked_for(tmp_path):
    draw(tmp_path / "a.jpg")
    with pytest.raises(SourceError, match="data.yaml"):
        opened("auto", tmp_path)
    with pytest.raises(SettingsError, match="folder.path"):
        opened("auto", FolderOptions())


@pytest.mark.parametrize("name", sorted(set(FORMATS) - {"datasets"}))
def test_a_folder_that_is_not_there_is_a_source_error_and_leaves_nothing(tmp_path, name):
    options = FolderOptions(path=str(tmp_path / "nowhere"))
    with pytest.raises(SourceError, match="nowhere"):
        opened(name, options)
    with pytest.raises(SourceError, match="nowhere"):
        synth.make(synth.Settings(source=name, folder=options, split="all", out=str(tmp_path / "d")))
    assert not (tmp_path / "d").exists()


def test_a_run_that_cannot_begin_leaves_no_index_behind(tmp_path):
    dump(tmp_path / "mine" / "instances.json", {"images": [image(1, "a.png")], "annotations": [], "categories": []})
    options = FolderOptions(path=str(tmp_path / "mine"), val_fraction=0.0)
    with pytest.raises(SourceError, match="no pictures"):
        synth.make(synth.Settings(source="coco", folder=options, split="val", out=str(tmp_path / "d")))
    assert not (tmp_path / "d").exists()


def test_a_folder_option_for_drawn_pictures_is_refused(tmp_path):
    options = FolderOptions(path=str(tmp_path))
    with pytest.raises(SettingsError, match="has no options folder"):
        opened("rendered", options)


@pytest.mark.parametrize("option", [{"names": "x"}, {"boxes": "xyxy"}])
def test_an_option_that_the_format_does_not_use_is_refused(tmp_path, option):
    dump(tmp_path / "instances.json", {"images": [image(1, "a.png")], "annotations": [], "categories": []})
    with pytest.raises(SettingsError, match=f"folder.{next(iter(option))}"):
        opened("coco", FolderOptions(path=str(tmp_path), **option))
