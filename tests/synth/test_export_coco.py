"""A rendered COCO folder is read back by the coco source as the same boxes of the same things."""

import json

import numpy as np

from synth.export_coco import export_coco, main
from synth.sources.rendered import RenderedSource
from tests.synth.sources.opened import opened


def test_coco_source_reads_back_the_boxes_that_were_rendered(tmp_path):
    export_coco(tmp_path, size=6, split="val", seed=3)
    source = opened("coco", tmp_path)
    assert len(source) == 6
    for index in range(6):
        true = RenderedSource().scene(index, "val", 3)
        read = source.scene(index, "all", 0)
        assert sorted((o.name, o.box) for o in read.objects) == sorted((o.phrase, o.box) for o in true.objects)
        assert source.object_faults(index) == []
        assert read.licence == true.licence


def test_pycocotools_reads_the_masks_that_were_rendered(tmp_path, capsys):
    from pycocotools.coco import COCO

    read = COCO(str(export_coco(tmp_path, size=4, split="val", seed=3)))
    true = [obj for k in range(4) for obj in RenderedSource().scene(k, "val", 3).objects]
    found = read.loadAnns(read.getAnnIds())
    assert len(found) == len(true) > 8
    for annotation, obj in zip(found, true, strict=True):
        assert np.array_equal(read.annToMask(annotation), obj.mask) and annotation["area"] == obj.mask.sum()
    source = opened("coco", tmp_path)
    for index in range(4):
        seen = {(o.name, o.box): o.pixels() for o in source.scene(index, "all", 0).objects}
        for obj in RenderedSource().scene(index, "val", 3).objects:
            assert np.array_equal(seen[obj.phrase, obj.box], obj.mask)


def test_same_seed_gives_the_same_bytes_and_another_seed_other_pictures(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert main([str(tmp_path / name), "--size", "2", "--seed", str(seed)]) == 0
    read = {name: sorted((p.name, p.read_bytes()) for p in (tmp_path / name / "images").iterdir()) for name in "abc"}
    assert read["a"] == read["b"] != read["c"]
    assert len(json.loads((tmp_path / "a" / "instances.json").read_text())["images"]) == 2
