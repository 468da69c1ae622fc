"""Data that name pictures instead of holding them: read back from their folder, in the frame of their boxes."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lynx_moe.data import load_records
from lynx_moe.data.linked import open_linked
from lynx_moe.errors import RecordError
from synth.sources.pictures import upright

ROOT = Path(__file__).resolve().parents[2]


def make(out, source, *more):
    command = [sys.executable, "-m", "synth", "source=coco", f"folder.path={source}", "split=all", f"out={out}", *more]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads((out / "manifest.json").read_text())


@pytest.fixture
def source(tmp_path):
    """Two pictures with one box each; the second is stored lying and shown standing."""
    folder = tmp_path / "mine"
    (folder / "images" / "sub").mkdir(parents=True)
    plain = Image.new("RGB", (40, 30), "blue")
    plain.paste("red", (4, 5, 14, 15))
    plain.save(folder / "images" / "sub" / "a.png")
    lying = Image.new("RGB", (40, 30), "blue")
    lying.paste("red", (0, 20, 10, 30))  # orientation 6 turns it to the top left
    exif = Image.Exif()
    exif[0x0112] = 6
    lying.save(folder / "images" / "b.jpg", exif=exif, quality=95)
    content = {
        "images": [{"id": 1, "file_name": "sub/a.png", "width": 40, "height": 30},
                   {"id": 2, "file_name": "b.jpg", "width": 30, "height": 40},
                   {"id": 3, "file_name": "gone.png", "width": 30, "height": 40}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [4, 5, 10, 10]},
                        {"id": 2, "image_id": 2, "category_id": 1, "bbox": [0, 0, 10, 10]},
                        {"id": 3, "image_id": 3, "category_id": 1, "bbox": [0, 0, 10, 10]}],
        "categories": [{"id": 1, "name": "square"}],
    }  # fmt: skip
    (folder / "instances.json").write_text(json.dumps(content))
    return folder


def test_linked_pictures_are_read_under_their_boxes_and_asked_the_same(tmp_path, source):
    linked = make(tmp_path / "link", source, "task=find_one", "images=link")
    make(tmp_path / "embed", source, "task=find_one")
    assert linked["quarantined"]["all"] == {"missing picture": 1}
    assert linked["splits"]["all"]["pictures_root"] == str(source / "images")
    stored = pq.read_table(tmp_path / "link/images/all-00000-of-00001.parquet").to_pylist()
    assert [row["image"] for row in stored] == [{"bytes": None, "path": "b.jpg"}, {"bytes": None, "path": "sub/a.png"}]
    here, there = (load_records(tmp_path / name, "all") for name in ("link", "embed"))
    assert here.column("question") == there.column("question") and len(here) == 2
    for record, other in zip(here, there, strict=True):
        assert record.image().size == record.size == other.size
        assert record.image().tobytes() == other.image().tobytes()
        x1, y1, x2, y2 = record.boxes[0]
        red, _, blue = record.image().getpixel((int(x1 + x2) // 2, int(y1 + y2) // 2))
        assert red > 200 and blue < 60


@pytest.mark.parametrize("form", ["PNG", "PPM", "TIFF"])
def test_sixteen_bits_are_scaled_as_stored_pictures_are(form, tmp_path):
    grey = np.linspace(0, 65535, 1200).astype(np.uint16).reshape(30, 40)
    Image.fromarray(grey).save(tmp_path / "x", form)
    stored = Image.open(io.BytesIO(upright((tmp_path / "x").read_bytes(), (40, 30), "x")[0]))
    assert np.array_equal(np.asarray(open_linked(tmp_path, "x", (40, 30))), np.asarray(stored))
    assert np.array_equal(np.asarray(stored)[..., 0], grey >> 8)


def test_pixels_without_a_range_are_refused_as_they_are_when_stored(tmp_path):
    Image.new("F", (40, 30), 0.5).save(tmp_path / "x", "TIFF")
    with pytest.raises(RecordError, match="range"):
        open_linked(tmp_path, "x", (40, 30))


def test_moved_pictures_are_found_where_they_are_now(tmp_path, source):
    make(tmp_path / "d", source, "task=find_one", "images=link")
    (source / "images").rename(tmp_path / "moved")
    with pytest.raises(RecordError, match="gone"):
        load_records(tmp_path / "d", "all")[0].image()
    records = load_records(tmp_path / "d", "all", pictures_root=tmp_path / "moved")
    assert records.select([1])[0].image().size == (40, 30)


def test_a_path_that_leaves_the_folder_and_a_changed_picture_are_refused(tmp_path, source):
    make(tmp_path / "d", source, "task=find_one", "images=link")
    (source / "images" / "b.jpg").unlink()
    Image.new("RGB", (30, 40)).save(tmp_path / "b.jpg")
    os.symlink(tmp_path / "b.jpg", source / "images" / "b.jpg")
    Image.new("RGB", (40, 31)).save(source / "images" / "sub" / "a.png")
    records = load_records(tmp_path / "d", "all")
    with pytest.raises(RecordError, match="outside"):
        records[0].image()
    with pytest.raises(RecordError, match="40 x 31"):
        records[1].image()
