"""The COCO source: true boxes in, bad rows out and counted, and nothing asked that the annotations cannot answer."""

import io
import json

import pyarrow.parquet as pq
import pytest
from PIL import Image

import synth
from synth.check import scene_from
from synth.errors import SettingsError, SourceError
from synth.record import make_picture
from synth.sources import SOURCES
from synth.sources.fault import PictureFault
from synth.sources.index import split_of
from synth.sources.options import FolderOptions
from synth.sources.paste import PasteOptions
from tests.synth.by_hand import drafts
from tests.synth.sources.opened import opened

CATEGORIES = [{"id": 1, "name": "cat"}, {"id": 7, "name": "traffic light"}]


def picture(number, name=None, size=(40, 30), **more):
    return {"id": number, "file_name": name or f"{number}.png", "width": size[0], "height": size[1], **more}


def thing(number, image, box, category=1, **more):
    return {"id": number, "image_id": image, "category_id": category, "bbox": box, "iscrowd": 0, **more}


def write(folder, images, annotations, draw=True, **more):
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for image in images if draw else ():
        Image.new("RGB", (image["width"], image["height"]), (90, 120, 40)).save(folder / "images" / image["file_name"])
    content = {"images": images, "annotations": annotations, "categories": CATEGORIES, **more}
    (folder / "instances.json").write_text(json.dumps(content))
    return FolderOptions(path=str(folder))


def only_scene(options):
    return opened("coco", options).scene(0, "all", 0)


def names_of(options, split):
    source = opened("coco", options, split)
    return {source.scene(k, split, 0).file for k in range(len(source))}


def reasons(options, index=0):
    return [fault.reason for fault in opened("coco", options).object_faults(index)]


def test_boxes_become_corner_form_in_original_pixels_with_category_names(tmp_path):
    options = write(tmp_path, [picture(1)], [thing(1, 1, [2, 3, 10, 20]), thing(2, 1, [20.5, 0, 4, 4], category=7)])
    scene = only_scene(options)
    assert [(o.name, o.box) for o in scene.objects] == [
        ("cat", (2, 3, 12, 23)), ("traffic light", (20.5, 0, 24.5, 4)),
    ]  # fmt: skip
    assert (scene.width, scene.height, scene.source) == (40, 30, "coco")
    assert set(scene.vocabulary) == {"cat", "traffic light"}
    assert scene.image_bytes() == ((tmp_path / "images/1.png").read_bytes(), "png")


@pytest.mark.parametrize(
    "bad, reason",
    [
        (thing(2, 1, [2, 3, 0, 20]), "zero area"),
        (thing(2, 1, [2, 3, 5, -1]), "zero area"),
        (thing(2, 1, [35, 3, 10, 10]), "box outside the picture"),
        (thing(2, 1, [-5, 3, 10, 10]), "box outside the picture"),
        (thing(2, 1, [40.2, 3, 0.5, 10]), "box outside the picture"),
        (thing(2, 1, [1, 2, 3]), "box is not four numbers"),
        (thing(2, 1, [1, 2, 3, "4"]), "box is not four numbers"),
        (thing(2, 1, [1, 2, 3, float("nan")]), "box is not four numbers"),
        (thing(2, 1, None), "box is not four numbers"),
        (thing(2, 1, [1, 2, 3, 4], category=99), "unknown category"),
    ],
)
def test_a_bad_annotation_is_quarantined_and_others_stay(tmp_path, bad, reason):
    options = write(tmp_path, [picture(1)], [thing(1, 1, [2, 3, 10, 20], category=7), bad])
    assert [o.name for o in only_scene(options).objects] == ["traffic light"]
    assert reasons(options) == [reason]


def test_a_box_over_the_edge_by_rounding_is_clipped(tmp_path):
    options = write(tmp_path, [picture(1)], [thing(1, 1, [-0.4, 3, 40.9, 27.5])])
    assert only_scene(options).objects[0].box == (0, 3, 40, 30)
    assert reasons(options) == []


def test_a_name_with_a_bad_box_or_a_crowd_is_neither_present_nor_absent_in_that_picture(tmp_path):
    crowd = thing(2, 1, [0, 0, 5, 5], iscrowd=1)
    options = write(tmp_path, [picture(1)], [thing(1, 1, [2, 3, 10, 20]), crowd])
    scene = only_scene(options)
    assert scene.objects == [] and scene.vocabulary == ("traffic light",)
    assert reasons(options) == ["same name as a crowd or a bad box"]


def test_no_point_means_a_thing_where_something_lies_that_is_not_listed(tmp_path):
    """A crowd stands before the traffic light: nobody knows whose pixel the point is on."""
    light, crowd = thing(1, 1, [0, 0, 40, 30], category=7), thing(2, 1, [1, 1, 38, 28], iscrowd=1)
    clear = only_scene(write(tmp_path / "clear", [picture(1)], [light]))
    hidden = only_scene(write(tmp_path / "hidden", [picture(1)], [light, crowd]))
    assert hidden.unlisted == ((1, 1, 39, 29),) and clear.unlisted == ()
    assert drafts("name_point", clear) and not drafts("name_point", hidden)
    kept = scene_from(make_picture(hidden, "all/coco/0"))
    assert kept.unlisted == hidden.unlisted and not drafts("name_point", kept)
    assert "unlisted" not in make_picture(clear, "all/coco/0")["scene"]


def test_bad_pictures_are_quarantined_with_their_reason(tmp_path):
    names = ["a_missing.png", "b_torn.jpg", "c_text.png", "d_size.png", "../e_outside.png"]
    options = write(tmp_path, [picture(k, name) for k, name in enumerate(names)], [], draw=False)
    folder = tmp_path / "images"
    whole = io.BytesIO()
    Image.effect_noise((40, 30), 50).save(whole, "JPEG")
    (folder / "b_torn.jpg").write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
    (folder / "c_text.png").write_text("not a picture")
    Image.new("RGB", (41, 30)).save(folder / "d_size.png")
    Image.new("RGB", (40, 30)).save(tmp_path / "e_outside.png")
    found = {}
    for index in range(5):
        with pytest.raises(PictureFault) as caught:
            opened("coco", options).scene(index, "all", 0).image_bytes()
        found[caught.value.fault.row] = caught.value.fault.reason
    assert found == {
        "a_missing.png": "missing picture", "b_torn.jpg": "unreadable picture", "c_text.png": "unreadable picture",
        "d_size.png": "size differs from the annotation", "../e_outside.png": "path leaves the folder",
    }  # fmt: skip


@pytest.mark.parametrize("annotated", ["upright", "as stored"])
def test_a_turned_photo_is_stored_in_the_frame_of_its_boxes(tmp_path, annotated):
    size = (30, 40) if annotated == "upright" else (40, 30)
    options = write(tmp_path, [picture(1, "p.jpg", size)], [thing(1, 1, [0, 0, 10, 10])], draw=False)
    stored = Image.new("RGB", (40, 30), "blue")
    stored.paste("red", (0, 20, 10, 30))  # stored bottom left; orientation 6 turns it to the top left
    exif = Image.Exif()
    exif[0x0112] = 6
    stored.save(tmp_path / "images/p.jpg", exif=exif, quality=95)
    scene = only_scene(options)
    shown = Image.open(io.BytesIO(scene.image_bytes()[0]))
    assert shown.size == (scene.width, scene.height) == size
    assert shown.getexif().get(0x0112, 1) == 1
    corner = shown.getpixel((4, 4) if annotated == "upright" else (4, 25))
    assert corner[0] > 200 and corner[2] < 60


def test_val_takes_its_share_by_file_name_and_new_pictures_move_no_others(tmp_path):
    images = [picture(k, f"{k:03d}.png", (2, 2)) for k in range(200)]
    options = write(tmp_path, images, [], draw=False)
    options.val_fraction = 0.25
    names = {s: names_of(options, s) for s in ("train", "val", "unseen", "all")}
    assert names["train"] | names["val"] == names["all"] and not names["train"] & names["val"]
    assert names["unseen"] == names["val"]
    assert 25 < len(names["val"]) < 75
    assert split_of("a.png", 0.0) == "train" and split_of("a.png", 1.0) == "val"


def test_the_licence_is_the_pictures_own_or_the_option(tmp_path):
    images = [picture(1, license=4), picture(2, license=9), picture(3)]
    options = write(tmp_path, images, [], licenses=[{"id": 4, "name": "CC BY 2.0", "url": "u"}])
    options.licence = "house rules"
    source = opened("coco", options)
    assert [source.scene(k, "all", 0).licence for k in range(3)] == ["CC BY 2.0", "house rules", "house rules"]


def test_a_folder_without_annotations_raises_and_names_the_file(tmp_path):
    with pytest.raises(SourceError, match="instances.json"):
        opened("coco", FolderOptions(path=str(tmp_path)))


@pytest.mark.parametrize(
    "text",
    ["[1]", "{", '{"images": []}', '{"images": [{"id": 1}], "annotations": [], "categories": []}', '"x"',
     '{"images": [], "annotations": [{"image_id": [1], "category_id": 1}], "categories": []}'],
)  # fmt: skip
def test_an_annotation_file_of_another_shape_raises(tmp_path, text):
    (tmp_path / "instances.json").write_text(text)
    with pytest.raises(SourceError, match="not a COCO"):
        opened("coco", FolderOptions(path=str(tmp_path)))


def test_two_pictures_with_one_id_raise(tmp_path):
    with pytest.raises(SourceError, match="same id"):
        opened("coco", write(tmp_path, [picture(1, "a.png"), picture(1, "b.png")], []))


def test_unknown_splits_and_a_missing_folder_option_raise(tmp_path):
    options = write(tmp_path, [picture(1)], [])
    with pytest.raises(SettingsError, match="test"):
        opened("coco", options, "test")
    with pytest.raises(SettingsError, match="folder.path"):
        opened("coco", FolderOptions())


def test_a_coco_folder_becomes_records_with_its_faults_in_the_manifest(tmp_path):
    images = [picture(1), picture(2), picture(3)]
    annotations = [thing(1, 1, [2, 3, 10, 20]), thing(2, 2, [0, 0, 0, 0]), thing(3, 77, [0, 0, 5, 5])]
    annotations.append(thing(4, 3, [0, 0, 5, 5]))
    options = write(tmp_path / "mine", images, annotations)
    (tmp_path / "mine/images/3.png").unlink()
    run = synth.Settings(
        out=str(tmp_path / "d"), source="coco", split="all", task=["find_one", "exists"], folder=options
    )
    manifest = synth.make(run)
    assert manifest["quarantined"]["all"] == {
        "annotation of an unlisted picture": 1, "missing picture": 1, "zero area": 1,
    }  # fmt: skip
    rows = pq.read_table(tmp_path / "d" / "records" / "all-00000-of-00001.parquet").to_pylist()
    assert [r["boxes"] for r in rows if r["task"] == "find_one"] == [[[2, 3, 12, 23]]]


def test_changed_annotations_are_other_settings(tmp_path):
    options = write(tmp_path / "mine", [picture(1)], [thing(1, 1, [2, 3, 10, 20])])
    run = synth.Settings(out=str(tmp_path / "d"), source="coco", split="all", task="find_one", folder=options)
    synth.make(run)
    write(tmp_path / "mine", [picture(1)], [thing(1, 1, [2, 3, 10, 21])])
    with pytest.raises(FileExistsError, match="annotations_sha256"):
        synth.make(run)


def test_one_folder_named_in_several_ways_is_one_folder(tmp_path, monkeypatch):
    folder = tmp_path / "mine"
    write(folder, [picture(1)], [thing(1, 1, [2, 3, 10, 20])])
    monkeypatch.chdir(tmp_path)
    for source in ("coco", "pictures", "paste"):
        described = []
        for path in (str(folder), "mine", "./mine/../mine"):
            paste = PasteOptions(grounds=f"{path}/images") if source == "paste" else PasteOptions()
            run = synth.Settings(source=source, folder=FolderOptions(path=path), paste=paste)
            described.append(SOURCES[source].fingerprint(run))
        assert described[0] == described[1] == described[2]


def test_an_empty_split_raises(tmp_path):
    options = write(tmp_path / "mine", [picture(1)], [])
    options.val_fraction = 0.0
    with pytest.raises(SourceError, match="no pictures"):
        synth.make(synth.Settings(out=str(tmp_path / "d"), source="coco", split="val", task="find_one", folder=options))
