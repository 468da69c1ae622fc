"""What a careless or hostile folder once did to a whole run costs a row, a picture or a typed error."""

import json
import os
import pickle

import pytest
from PIL import Image

import synth
from synth.errors import SourceError
from synth.settings import Settings
from synth.sources.masks import mask_of
from synth.sources.options import FolderOptions
from synth.sources.paste import grounds_digest
from synth.sources.plain_pickle import load
from synth.sources.unlabelled import PicturesSource
from tests.synth.sources import test_labelme, test_refcoco, test_visual_genome
from tests.synth.sources.made import box, draw, dump, image
from tests.synth.sources.opened import faults, listed, opened, scenes

refcoco_folder, genome_folder = test_refcoco.folder, test_visual_genome.folder


def coco(folder, names=("cat", "dog"), images=None, annotations=None):
    draw(folder / "images" / "a.png", folder / "images" / "b.png")
    content = {
        "images": images or [image(1, "a.png"), image(2, "b.png")], "licenses": [],
        "annotations": annotations
        or [box(1, 1, 1, [1, 2, 9, 9]), box(2, 1, 2, [30, 20, 9, 9]), box(3, 2, 2, [5, 5, 20, 9])],
        "categories": [{"id": k, "name": name} for k, name in enumerate(names, 1)],
    }  # fmt: skip
    dump(folder / "instances.json", content)
    return folder


def run(folder, out, **more):
    return synth.make(
        Settings(source="coco", folder=FolderOptions(path=str(folder)), split="all", out=str(out), **more)
    )


@pytest.mark.parametrize("name", [" ", "cat {box:0}", "{box:7}"])
def test_a_name_that_no_text_can_hold_costs_its_objects_only(tmp_path, name):
    entry = run(coco(tmp_path / "coco", ("dog", name)), tmp_path / "out")["splits"]["all"]
    assert entry["quarantined"]["name that no text can hold"] == 2 and entry["counts"]["find_one"] == 1
    assert scenes("coco", tmp_path / "coco")["a.png"].vocabulary == ("dog",)


def test_a_picture_said_to_be_huge_is_refused_before_its_masks_are_drawn(tmp_path):
    square = [[0, 0, 9e8, 0, 9e8, 9e8, 0, 9e8]]
    folder = coco(
        tmp_path / "coco", images=[image(1, "a.png", size=(10**9, 10**9)), image(2, "b.png")],
        annotations=[box(1, 1, 1, [0, 0, 9e8, 9e8], segmentation=square), box(2, 2, 1, [1, 1, 9, 9])],
    )  # fmt: skip
    entry = run(folder, tmp_path / "out")["splits"]["all"]
    assert entry["quarantined"] == {"size differs from the annotation": 1} and entry["pictures"] == 1


def test_an_outline_that_nobody_can_draw_is_no_mask(tmp_path):
    assert mask_of({"polygons": [[0, 0, 9e8, 0, 9e8, 9e8]]}, 10**9, 10**9, False) is None
    draw(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    at = data.index(b"IDAT")
    (tmp_path / "a.png").write_bytes(data[: at + 8] + b"\0\0\0\0" + data[at + 12 :])
    assert mask_of({"ids": {"folder": str(tmp_path), "file": "a.png", "id": 1}}, 64, 48, False) is None


def test_of_a_picture_listed_twice_nothing_is_believed(tmp_path):
    folder = coco(tmp_path, images=[image(1, "a.png"), image(2, "a.png"), image(3, "b.png")])
    assert list(scenes("coco", folder)) == ["b.png"]
    assert ("picture listed twice", "a.png") in faults("coco", folder)


def test_labelme_labels_and_circles_of_any_kind(tmp_path):
    draw(tmp_path / "a.png")
    shapes = [
        {**test_labelme.shape("cat", "polygon", (1, 2), (9, 2), (9, 9)), "label": ["cat"], "group_id": 1},
        test_labelme.shape("sun", "circle", (1e200, 0), (0, 1e200)),
        test_labelme.shape("moon", "circle", (10**200, 0), (0, 10**200)),
        test_labelme.shape("dog", "circle", (20, 20), (23, 24)),
    ]
    dump(tmp_path / "a.json", test_labelme.annotation("a.png", *shapes))
    assert listed(scenes("labelme", tmp_path)["a.png"]) == [("dog", (15, 15, 25, 25))]


def test_whatever_a_reference_is_called_it_is_read(refcoco_folder):
    refs = [{**ref, "ref_id": odd} for ref, odd in zip(test_refcoco.REFS, (b"\xff", [1], None), strict=False)]
    (refcoco_folder / "refs(unc).p").write_bytes(pickle.dumps(refs))
    assert sum(len(scene.regions) for scene in scenes("refcoco", refcoco_folder).values()) == 4


def test_tuples_in_tuples_as_a_key_are_refused(tmp_path):
    deep = b"\x80\x02)" + b"\x85" * 1_000_000  # a tuple in a tuple in a tuple ...
    (tmp_path / "refs.p").write_bytes(b"\x80\x02}" + deep[2:] + b"K\x01s.")
    with pytest.raises(SourceError, match="plain data"):
        load(tmp_path / "refs.p")


@pytest.mark.parametrize(
    "name, files",
    [
        ("coco", {"instances.json": '{"images": [], "categories": [], "annotations": [{"image_id": 1, "x": '
                                    + "[" * 9000 + "]" * 9000 + "}]}"}),
        ("coco", {"instances.json": '{"images": [{"id": ' + "9" * 5000 + ', "file_name": "a"}], "categories": []}'}),
        ("yolo", {"data.yaml": "names: " + "[" * 5000, "labels/a.txt": "0 0.5 0.5 0.2 0.4"}),
        ("open_images", {"x-annotations-bbox.csv": "ImageID,LabelName,XMin,XMax,YMin,YMax\n",
                         "class-descriptions.csv": "/m/1," + "x" * 200_000}),
    ],
)  # fmt: skip
def test_a_file_that_no_parser_bears_is_a_typed_error(tmp_path, name, files):
    for file, content in files.items():
        dump(tmp_path / file, content)
    draw(tmp_path / "images" / "a.png")
    with pytest.raises(SourceError):
        opened(name, FolderOptions(path=str(tmp_path)))


def test_a_file_name_that_is_not_unicode_costs_its_picture(tmp_path):
    draw(tmp_path / "a.png")
    os.link(tmp_path / "a.png", os.path.join(os.fsencode(tmp_path), b"b\xff.png"))
    source = PicturesSource(FolderOptions(path=str(tmp_path)))
    assert [source.scene(k, "all", 0).file for k in range(len(source))] == ["a.png"]
    assert [fault.reason for fault in source.faults] == ["file name that is not Unicode"]
    json.dumps(source.faults[0].row, ensure_ascii=False).encode()


def test_a_folder_called_like_a_picture_is_no_ground(tmp_path):
    (tmp_path / "folder.png").mkdir()
    draw(tmp_path / "a.png")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    before = grounds_digest(str(tmp_path))
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    assert grounds_digest(str(tmp_path)) != before


COUNTING = ["count", "count_by_pointing", "find_all", "compare_counts", "ordinal", "superlative"]


def test_where_not_every_one_of_a_name_is_listed_nothing_is_counted_or_ranked(genome_folder, tmp_path):
    folder = FolderOptions(path=str(genome_folder))
    made = synth.make(Settings(source="visual_genome", folder=folder, split="all", out=str(tmp_path / "out")))
    counts = made["splits"]["all"]["counts"]
    assert not set(COUNTING) & set(counts) and counts["name_region"] == 3
    scene = scenes("coco", coco(tmp_path / "coco"))["a.png"]
    assert scene.exhaustive and not scene.complete


def test_coco_like_formats_still_count(tmp_path):
    entry = run(coco(tmp_path / "coco"), tmp_path / "out", task=COUNTING)["splits"]["all"]
    assert {"count", "count_by_pointing", "find_all", "compare_counts"} <= set(entry["counts"])
