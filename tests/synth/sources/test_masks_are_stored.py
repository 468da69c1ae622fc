"""Masks reach the images table as run lengths, and only where pictures are stored."""

import numpy as np
import pyarrow.parquet as pq
import pytest

import synth
from synth.sources.options import FolderOptions
from tests.synth.sources.made import box, draw, dump, image


@pytest.mark.parametrize("images", ["embed", "link"])
def test_masks_are_stored_with_pictures_and_left_out_with_links(tmp_path, images):
    draw(tmp_path / "mine" / "images" / "a.png")
    rows = [box(1, 1, 1, [4, 5, 10, 6], segmentation=[[4, 5, 14, 5, 14, 11, 4, 11]]), box(2, 1, 2, [30, 5, 9, 9])]
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    content = {"images": [image(1, "a.png")], "annotations": rows, "categories": categories}
    dump(tmp_path / "mine" / "instances.json", content)
    options = FolderOptions(path=str(tmp_path / "mine"))
    out = tmp_path / "d"
    synth.make(synth.Settings(source="coco", folder=options, split="all", task="find_one", images=images, out=str(out)))
    (row,) = pq.read_table(out / "images" / "all-00000-of-00001.parquet").to_pylist()
    cat, dog = (found["mask"] for found in row["objects"])
    if images == "link":
        assert cat == dog == [] and row["image"]["bytes"] is None
        return
    drawn = np.repeat(np.arange(len(cat)) % 2 == 1, cat).reshape(48, 64)
    assert drawn.sum() == 60 and drawn[5:11, 4:14].all() and dog == []
    assert row["image"]["bytes"] == (tmp_path / "mine" / "images" / "a.png").read_bytes()
