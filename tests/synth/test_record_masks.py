"""Masks of records: the visible pixels of what each box is of, from every kind of source to every kind of reader."""

import hashlib
import io
import json
import tarfile
import tracemalloc
from itertools import combinations

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pycocotools import mask as coco_masks

import synth
from lynx_moe.data import load_records
from synth.__main__ import main
from synth.compose import Canvas
from synth.errors import SettingsError
from synth.masks import SceneMasks, add_masks
from synth.scene import Obj, Scene
from synth.settings import Settings
from synth.sources.options import FolderOptions
from synth.sources.paste import PasteOptions
from synth.sources.rendered import RenderedOptions, RenderedSource
from synth.webdataset import to_webdataset
from tests.synth.sources.made import box, draw, dump, image
from tests.synth.sources.test_paste import OUTLINES, STILL, coco_folder, like
from tests.synth.test_rederive import INK

TASKS = ["find_one", "find_all", "relation", "count_by_pointing", "name_region", "which_picture", "same_in_both"]


def made(out, **changes) -> list[dict]:
    synth.make(Settings(**{"out": str(out), "size": 6, "task": TASKS, "masks": True, **changes}))
    return rows_of(out)


def rows_of(out) -> list[dict]:
    return [row for file in sorted((out / "records").glob("*.parquet")) for row in pq.read_table(file).to_pylist()]


def every_mask(row: dict):
    """(box, mask, number of the picture) of all boxes of a row."""
    for part in (row, *row["steps"]):
        yield from ((*pair, part["picture"]) for pair in zip(part["boxes"], part["masks"], strict=True))
    yield from ((*pair, 0) for pair in zip(row["question_boxes"], row["question_masks"], strict=True))


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    """Crowded pictures: about every third thing is covered in part."""
    out = tmp_path_factory.mktemp("rendered") / "data"
    made(out, rendered=RenderedOptions(objects=[5, 9], overlap=0.5))
    return out


def test_every_box_of_a_rendered_picture_has_the_mask_that_pycocotools_reads(rendered):
    rows, seen = rows_of(rendered), 0
    for row in rows:
        for (x1, y1, x2, y2), mask, _ in every_mask(row):
            assert coco_masks.toBbox(mask).tolist() == [x1, y1, x2 - x1, y2 - y1]
            assert coco_masks.area(mask) > 0
            seen += 1
    assert seen > 100 and {row["task"] for row in rows} == set(TASKS)


def test_where_shapes_overlap_each_mask_holds_the_pixels_of_its_own_ink():
    options = RenderedOptions(objects=[6, 9], overlap=0.6, side=256)
    met = 0
    for index in range(40):
        scene = RenderedSource(options).scene(index, "train", 0)
        shown = np.asarray(Image.open(io.BytesIO(scene.image_bytes()[0])).convert("RGB"), float)
        known = SceneMasks(scene)
        shapes = [(o, coco_masks.decode(known.of(o.box)).astype(bool)) for o in scene.objects if o.kind == "shape"]
        for (lower, below), (upper, above) in combinations(shapes, 2):
            colours = [INK[o.attributes["colour"]] for o in (lower, upper)]
            common = within(lower.box, scene) & within(upper.box, scene)
            if colours[0] == colours[1] or (above & common).sum() < 50 or (below & common).sum() < 50:
                continue
            far = [
                np.min([np.linalg.norm(shown - share * np.array(c), axis=-1) for share in (1, 0.55)], 0)
                for c in colours
            ]
            assert not (above & below).any()
            assert (far[0] < far[1])[below & common].mean() > 0.75  # edges are darker, and blend
            assert (far[1] < far[0])[above & common].mean() > 0.75
            met += 1
    assert met > 10


def within(box, scene: Scene) -> np.ndarray:
    x1, y1, x2, y2 = map(int, box)
    inside = np.zeros((scene.height, scene.width), bool)
    inside[y1:y2, x1:x2] = True
    return inside


@pytest.mark.parametrize("change", [STILL, {"camera": 0.4, "light": 0.1, "turn": 180.0}])
def test_masks_of_pasted_things_are_the_pixels_of_their_colour(tmp_path, change):
    """One thing a picture: what has its colour is its mask, but for a soft edge, whatever camera and light."""
    grounds = tmp_path / "grounds"
    grounds.mkdir()
    Image.new("RGB", (400, 300), (128, 128, 128)).save(grounds / "grey.png")
    coco_folder(tmp_path / "coco")
    made(
        tmp_path / "data", source="paste", task=["name_region"], size=10,
        folder=FolderOptions(path=str(tmp_path / "coco")),
        paste=PasteOptions(grounds=str(grounds), objects=[1, 1], **change),
    )  # fmt: skip
    records = load_records(tmp_path / "data", "train")
    for record in records:
        ((_, colour),) = [(n, c) for n, (c, _) in OUTLINES.items() if n in record.answer]
        mask = record.question_masks[0].array()
        seen = like(np.asarray(record.image(), np.int32), colour)
        assert (seen & mask).sum() > 0.9 * (seen | mask).sum()
    assert len(records) >= 5  # a camera that looks elsewhere may miss it


def one_picture(folder, *segmentations, size=(64, 48), boxes=None):
    """A COCO folder of one picture, with a thing of another name for each segmentation."""
    if not (folder / "images" / "a.png").exists():
        draw(folder / "images" / "a.png")
    boxes = boxes or [[4 + 15 * k, 5, 10, 6] for k in range(len(segmentations))]
    rows = [
        box(k, 1, k, boxes[k - 1], **({} if s is None else {"segmentation": s}))
        for k, s in enumerate(segmentations, 1)
    ]  # fmt: skip
    names = [{"id": k, "name": name} for k, name in enumerate(("cat", "dog", "key", "cup"), 1)]
    dump(folder / "instances.json", {"images": [image(1, "a.png", size)], "annotations": rows, "categories": names})
    return FolderOptions(path=str(folder))


def square(k: int) -> list:
    x = 4 + 15 * k
    return [[x, 5, x + 10, 5, x + 10, 11, x, 11]]


def drawn(*at: tuple[int, int, int, int], text: bool = True, size=(48, 64)) -> dict:
    mask = np.zeros(size, np.uint8, order="F")
    for x1, y1, x2, y2 in at:
        mask[y1:y2, x1:x2] = 1
    coded = coco_masks.encode(mask)
    return {"size": list(coded["size"]), "counts": coded["counts"].decode()}


@pytest.mark.parametrize("images", ["embed", "link"])
def test_outlines_of_annotations_become_masks_and_damaged_ones_are_counted(tmp_path, images):
    damaged = drawn((34, 5, 44, 11))
    damaged["counts"] = damaged["counts"][:-2]
    folder = one_picture(tmp_path / "mine", square(0), drawn((19, 5, 29, 11)), damaged, None)
    out = tmp_path / "data"
    made(out, source="coco", folder=folder, split="all", task="find_one", images=images)
    by_name = {row["phrase"].split()[-1]: row for row in rows_of(out)}
    assert by_name["cat"]["masks"] == [drawn((4, 5, 14, 11))] and by_name["dog"]["masks"] == [drawn((19, 5, 29, 11))]
    assert by_name["key"]["masks"] == [None] == by_name["cup"]["masks"] and len(by_name["key"]["boxes"]) == 1
    entry = json.loads((out / "manifest.json").read_text())["splits"]["all"]
    assert entry["quarantined"] == {"outline that cannot be drawn": 1} and "key" in entry["faults"][0][1]
    assert entry["masks"] == {"boxes": 4, "masks": 2}
    assert main(["check", str(out)]) == 0


@pytest.mark.parametrize(
    "segmentation, reason",
    [
        (drawn(), "empty mask"),
        (drawn((4, 5, 14, 11), (60, 40, 61, 41)), "mask of another extent than its box"),
        (drawn((4, 5, 12, 11)), "mask of another extent than its box"),
        ([[200, 5, 214, 5, 214, 11, 200, 11]], "empty mask"),
        (drawn((4, 5, 14, 11), size=(64, 48)), "outline that cannot be drawn"),
        ({"size": [48, 64], "counts": [3072, -1]}, "outline that cannot be drawn"),
        ({"size": [48, 64], "counts": "P" * 1000}, "outline that cannot be drawn"),
        ([[4, 5, 14]], "outline that cannot be drawn"),
    ],
)
def test_a_mask_that_is_not_that_of_its_box_is_left_out_and_its_record_is_kept(tmp_path, segmentation, reason):
    out = tmp_path / "data"
    folder = one_picture(tmp_path / "mine", segmentation, square(1))
    rows = made(out, source="coco", folder=folder, split="all", task="find_one")
    assert sorted((row["phrase"], row["masks"] != [None]) for row in rows) == [("cat", False), ("dog", True)]
    assert json.loads((out / "manifest.json").read_text())["quarantined"]["all"] == {reason: 1}


def test_a_mask_may_be_a_pixel_off_its_box_and_not_more(tmp_path):
    folder = one_picture(
        tmp_path / "mine", drawn((5, 6, 13, 10)), drawn((20, 6, 31, 11)), boxes=[[4.2, 5, 9.8, 6], [19, 5, 10, 6]]
    )
    rows = made(tmp_path / "data", source="coco", folder=folder, split="all", task="find_one")
    assert sorted((row["phrase"], row["masks"] != [None]) for row in rows) == [("cat", True), ("dog", False)]


def test_what_is_hidden_has_no_mask_and_what_is_covered_in_part_the_rest():
    canvas = Canvas(Image.new("RGB", (40, 30), "grey"))
    for colour, size, at in (("red", (10, 10), (2, 2)), ("blue", (10, 8), (20, 5)), ("green", (9, 20), (24, 1))):
        canvas.lay(Image.new("RGBA", size, colour), *at)
    canvas.lay(Image.new("RGBA", (12, 12), "black"), 1, 1)  # over all of the red one
    things = canvas.objects(["key", "cup", "cat", "dog"])
    assert [thing.name for thing in things] == ["cup", "cat", "dog"]
    scene = Scene(index=0, width=40, height=30, objects=things, image_bytes=bytes, source="hand", licence="none")
    record = {
        "boxes": [(20, 5, 24, 13), (24, 1, 33, 21), (2, 2, 12, 12)],
        "picture": 0,
        "question_boxes": [],
        "steps": [],
    }
    add_masks(record, [SceneMasks(scene)])
    size = (30, 40)
    assert record["masks"] == [drawn((20, 5, 24, 13), size=size), drawn((24, 1, 33, 21), size=size), None]
    shown = np.asarray(canvas.picture.convert("RGB"))
    for mask, colour in zip(record["masks"], ((0, 0, 255), (0, 128, 0)), strict=False):
        assert np.array_equal(coco_masks.decode(mask).astype(bool), (shown == colour).all(-1))


def test_of_two_things_with_one_box_neither_is_given_the_others_mask():
    things = [
        Obj(id=k, name=name, box=(1.0, 1.0, 4.0, 4.0), mask=np.pad(np.ones((3, 3), bool), (1, 4)))
        for k, name in enumerate(("cat", "dog"))
    ]
    scene = Scene(index=0, width=8, height=8, objects=things, image_bytes=bytes, source="hand", licence="none")
    assert SceneMasks(scene).of([1, 1, 4, 4]) is None and SceneMasks(scene).of([1, 1, 4, 5]) is None
    scene = Scene(index=0, width=8, height=8, objects=things[:1], image_bytes=bytes, source="hand", licence="none")
    assert SceneMasks(scene).of([1, 1, 4, 4]) == drawn((1, 1, 4, 4), size=(8, 8))


def test_without_masks_asked_for_there_are_none_and_the_reader_says_none_for_each_box(tmp_path):
    rows = made(tmp_path / "data", masks=False)
    assert all(not part["masks"] for row in rows for part in (row, *row["steps"]))
    assert main(["check", str(tmp_path / "data")]) == 0
    for record in load_records(tmp_path / "data", "train"):
        assert record.masks == (None,) * len(record.boxes)
        assert record.question_masks == (None,) * len(record.question_boxes)
        assert all(step.masks == (None,) * len(step.boxes) for step in record.steps)


def test_masks_change_nothing_else_of_a_record(tmp_path, rendered):
    bare = made(tmp_path / "bare", masks=False, rendered=RenderedOptions(objects=[5, 9], overlap=0.5))

    def without(row):
        steps = [{**step, "masks": []} for step in row["steps"]]
        return {**row, "masks": [], "question_masks": [], "steps": steps}

    assert bare == list(map(without, rows_of(rendered)))


def test_any_number_of_workers_writes_the_same_masks(tmp_path):
    digests = []
    for workers in (1, 2):
        out = tmp_path / str(workers)
        made(out, workers=workers, shard_size=2)
        files = sorted(out.rglob("*.parquet"))
        digests.append([(file.name, hashlib.sha256(file.read_bytes()).hexdigest()) for file in files])
    assert digests[0] == digests[1]


def test_a_teacher_knows_no_masks():
    with pytest.raises(SettingsError, match="engine=teacher knows boxes only"):
        Settings(masks=True, engine="teacher", source="pictures").check()


def test_a_picture_as_large_as_any_that_opens_costs_the_memory_of_its_outlines(tmp_path):
    side = 13_000  # 169 million pixels: a mask of it, a byte a pixel, is 169 MB
    long = [[10, 20, side - 10, 20, side - 10, 60, 10, 60]]
    block = {"size": [side, side], "counts": [side * 100, side * 12_000, side * 900]}
    (tmp_path / "mine" / "images").mkdir(parents=True)
    (tmp_path / "mine" / "images" / "a.png").write_bytes(b"never opened")
    boxes = [[10, 20, side - 20, 40], [100, 0, 12_000, side]]
    folder = one_picture(tmp_path / "mine", long, block, size=(side, side), boxes=boxes)
    tracemalloc.start()
    rows = made(tmp_path / "data", source="coco", folder=folder, split="all", task="find_one", images="link")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sorted(coco_masks.area(row["masks"][0]) for row in rows) == [(side - 20) * 40, side * 12_000]
    assert peak < 40e6


def test_sentences_of_refcoco_have_the_mask_of_what_they_mean(tmp_path):
    from tests.synth.sources.test_refcoco import ref

    folder = one_picture(tmp_path, square(0), square(1))
    dump(tmp_path / "refs(unc).json", [ref(0, 1, 2, "val", "the one right of it")])
    (row,) = made(tmp_path / "data", source="refcoco", folder=folder, split="val", task="refer")
    assert row["masks"] == [drawn((19, 5, 29, 11))]


def test_webdataset_and_datasets_carry_the_masks(rendered, tmp_path):
    import datasets

    stored = {row["id"]: row for row in rows_of(rendered)}
    to_webdataset(rendered, tmp_path / "wds")
    told = {}
    for path in (tmp_path / "wds").glob("*.tar"):
        with tarfile.open(path) as tar:
            for member in tar:
                if member.name.endswith(".json"):
                    told |= {row["id"]: row for row in json.load(tar.extractfile(member))["records"]}
    assert told.keys() == stored.keys()
    assert all(list(every_mask(told[id])) == list(every_mask(stored[id])) for id in stored)
    files = str(rendered / "records" / "*.parquet")
    read = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    for row in read:
        assert list(every_mask(row)) == list(every_mask(stored[row["id"]]))
        assert all(coco_masks.decode(mask).any() for _, mask, _ in every_mask(row))


def test_splits_with_and_without_masks_in_one_folder_are_read_by_datasets(tmp_path):
    import datasets

    out = tmp_path / "data"
    for split, masks in (("train", True), ("val", False)):
        made(out, split=split, masks=masks, size=2)
    read = datasets.load_dataset(str(out), "records", cache_dir=str(tmp_path / "cache"))
    assert any(row["masks"] for row in read["train"]) and not any(row["masks"] for row in read["val"])


def test_records_give_masks_of_the_picture_that_their_boxes_lie_in(rendered):
    several = 0
    for record in load_records(rendered, "train"):
        parts = [(record.boxes, record.masks, record.picture), (record.question_boxes, record.question_masks, 0)]
        parts += [(step.boxes, step.masks, step.picture) for step in record.steps]
        for boxes, masks, picture in parts:
            for (x1, y1, x2, y2), mask in zip(boxes, masks, strict=True):
                seen = mask.array()
                assert seen.shape == record.sizes[picture][::-1]
                ys, xs = np.nonzero(seen)
                assert (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1) == (x1, y1, x2, y2)
                several += picture
    assert several > 3


def test_the_images_table_of_a_picture_still_has_the_masks_in_row_order(rendered):
    for file in (rendered / "images").glob("*.parquet"):
        for row in pq.read_table(file).to_pylist():
            size = Image.open(io.BytesIO(row["image"]["bytes"])).size
            for thing in row["objects"]:
                runs = thing["mask"]
                seen = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(size[::-1])
                ys, xs = np.nonzero(seen)
                assert [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1] == thing["box"]
