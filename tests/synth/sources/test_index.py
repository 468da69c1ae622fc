"""The index: whole or not there, in the order of file names, opened by workers instead of built again."""

import json
import random
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest

import synth
from synth.sources import formats
from synth.sources.annotation import Annotated, Thing, Vocabulary
from synth.sources.fault import Fault
from synth.sources.index import Index, build
from synth.sources.options import FolderOptions
from tests.synth.sources.made import box, draw, dump, image
from tests.synth.sources.opened import opened

ROOT = Path(__file__).resolve().parents[3]


def pictures(count):
    names = [f"{k:07d}.png" for k in range(count)]
    random.Random(0).shuffle(names)
    thing = Thing(id=0, name="cat", box=[0, 0, 5, 5], row="r", outline={"polygons": [[0.5] * 20]})
    return (Annotated(file=name, width=40, height=30, things=[thing]) for name in names)


def test_pictures_come_in_the_order_of_their_names_and_splits_divide_them(tmp_path):
    build(tmp_path / "i", pictures(300), 0.3)
    every = [Index(tmp_path / "i", None).row(k)[0].file for k in range(300)]
    assert every == sorted(every) and len(set(every)) == 300
    parts = {split: Index(tmp_path / "i", split) for split in ("train", "val")}
    files = {split: [part.row(k)[0].file for k in range(len(part))] for split, part in parts.items()}
    assert sorted(files["train"] + files["val"]) == every and all(f == sorted(f) for f in files.values())
    assert 50 < len(parts["val"]) < 130


def test_building_needs_no_more_memory_for_more_pictures(tmp_path):
    used = {}
    for count in (500, 5000):
        tracemalloc.start()
        build(tmp_path / str(count), pictures(count), 0.1)
        used[count] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    names = 4500 * 60  # bytes: the list of names that the test itself shuffles
    assert used[5000] < used[500] + 2 * names


def test_a_reader_that_fails_leaves_no_index_behind(tmp_path):
    def torn():
        yield from pictures(3)
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        build(tmp_path / "i", torn(), 0.1)
    assert list(tmp_path.iterdir()) == []


def test_text_that_no_table_can_hold_is_a_fault(tmp_path):
    bad = Thing(id=0, name="c\udc80t", box=[0, 0, 5, 5], row="r")
    items = [
        Annotated(file="\ud800.png", width=4, height=4), Annotated(file="a.png", width=9, height=9, things=[bad]),
        Annotated(file="b.png", width=2**40, height=9), Fault("so", "\ud800"), Vocabulary(("cat", "c\udc80t")),
    ]  # fmt: skip
    build(tmp_path / "i", items, 0.1)
    index = Index(tmp_path / "i", None)
    assert len(index) == 0 and index.names() == ("cat",)
    assert [fault.reason for fault in index.faults()] == [
        "text that is not Unicode", "text that is not Unicode", "picture size is not two whole numbers", "so",
    ]  # fmt: skip


def coco(folder, count=12):
    draw(*(folder / "images" / f"{k}.jpg" for k in range(count)))
    images = [image(k, f"{k}.jpg") for k in range(count)]
    annotations = [box(k, k, 1 + k % 2, [k, 2, 10, 10]) for k in range(count)] + [box(99, 77, 1, [0, 0, 1, 1])]
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    dump(folder / "instances.json", content)
    return FolderOptions(path=str(folder))


def test_an_index_that_is_there_is_opened_not_built(tmp_path, monkeypatch):
    options = coco(tmp_path / "mine")
    from synth.sources import open_source

    settings = synth.Settings(source="coco", split="all", folder=options)
    first = open_source(settings, tmp_path / "work")
    monkeypatch.setattr(formats.coco, "CocoFile", None)
    again = open_source(settings, tmp_path / "work")
    assert [again.scene(k, "all", 0).file for k in range(12)] == [first.scene(k, "all", 0).file for k in range(12)]
    assert [fault.reason for fault in again.faults] == ["annotation of an unlisted picture"]


@pytest.mark.parametrize("images", ["embed", "link"])
def test_two_workers_write_the_same_as_one_and_the_index_is_gone(tmp_path, images):
    coco(tmp_path / "mine")
    made = {}
    for workers in (1, 2):
        out = tmp_path / f"d{workers}"
        settings = [f"folder.path={tmp_path / 'mine'}", "source=auto", "split=all", "shard_size=5", f"images={images}"]
        command = [
            sys.executable,
            "-m",
            "synth",
            *settings,
            f"workers={workers}",
            f"out={out}",
            "task=[find_one,exists]",
        ]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "read as source=coco" in " ".join(done.stderr.split())
        made[workers] = json.loads((out / "manifest.json").read_text())
        assert sorted(p.name for p in out.iterdir()) == ["README.md", "images", "manifest.json", "records"]
    assert made[1] == made[2] and made[1]["splits"]["all"]["pictures"] == 12
    assert made[1]["quarantined"]["all"] == {"annotation of an unlisted picture": 1}


def test_scene_touches_no_pixels_when_the_size_is_annotated(tmp_path):
    options = coco(tmp_path / "mine")
    for path in (tmp_path / "mine" / "images").iterdir():
        path.unlink()
    source = opened("coco", options)
    assert [len(source.scene(k, "all", 0).objects) for k in range(12)] == [1] * 12
