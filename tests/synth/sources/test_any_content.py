"""Whatever stands in an annotation file, reading it ends in scenes, counted faults or a typed error."""

import json
import random
import tempfile
from pathlib import Path

import pytest

from synth.errors import SynthError
from synth.sources import PictureFault
from synth.sources.options import FolderOptions
from tests.synth.sources import (
    test_coco_like,
    test_cvat,
    test_flickr30k,
    test_labelme,
    test_open_images,
    test_voc,
    test_yolo,
)
from tests.synth.sources.made import box, draw, dump, image
from tests.synth.sources.opened import opened

ODD = (
    None,
    True,
    -1,
    0,
    2**40,
    1e300,
    "",
    "x",
    "../x",
    "\u00e9",
    [],
    [1],
    ["a", None],
    {},
    {"a": 1},
    [[0, 0, 9, 9, 3]],
)
COCO = {
    "images": [image(1, "a.png", license=1), image(2, "b.png")], "licenses": [{"id": 1, "name": "CC"}],
    "annotations": [box(1, 1, 1, [1, 2, 9, 9], segmentation=[[1, 2, 9, 2, 9, 9]]),
                    box(2, 2, 1, [1, 2, 9, 9], segmentation={"size": [48, 64], "counts": [3072]})],
    "categories": [{"id": 1, "name": "cat", "isthing": 1}],
}  # fmt: skip
REFS = [{"ref_id": 0, "image_id": 1, "ann_id": 1, "split": "train", "sentences": [{"raw": "the cat", "sent": "cat"}]}]
CARS = [{"object_id": k, "x": k, "y": 1, "w": 9, "h": 9, "names": ["cat"]} for k in (1, 40)]
ON = {"predicate": "on", "subject": {"object_id": 1}, "object": {"object_id": 40}}
GENOME = {
    "image_data": [{"image_id": 1, "url": "u/VG/a.png", "width": 64, "height": 48}],
    "objects": [{"image_id": 1, "objects": CARS}],
    "attributes": [{"image_id": 1, "attributes": [{"object_id": 1, "attributes": ["red"]}]}],
    "relationships": [{"image_id": 1, "relationships": [ON]}],
    "region_descriptions": [{"id": 1, "regions": [{"phrase": "a", "x": 1, "y": 1, "width": 4, "height": 4}]}],
}
SEGMENTS = [{"id": 3, "category_id": 1, "bbox": [1, 2, 9, 9], "iscrowd": 0}]
PANOPTIC = {**COCO, "annotations": [{"image_id": 1, "file_name": "a.png", "segments_info": SEGMENTS}]}
JSON = {
    "coco": {"instances.json": COCO},
    "lvis": {"lvis_v1_val.json": test_coco_like.LVIS},
    "objects365": {"zhiyuan_objv2_val.json": COCO},
    "panoptic": {"panoptic_val.json": PANOPTIC},
    "refcoco": {"instances.json": COCO, "refs(unc).json": REFS},
    "visual_genome": {f"{name}.json": content for name, content in GENOME.items()},
    "labelme": {
        "a.json": test_labelme.annotation("a.png", test_labelme.shape("cat", "polygon", (1, 2), (9, 2), (9, 9)))
    },
}
TEXT = {
    "voc": {"Annotations/a.xml": test_voc.annotation("a.png", [("dog", (1, 2, 9, 9))])},
    "flickr30k": {"Annotations/a.xml": test_flickr30k.XML, "Sentences/a.txt": test_flickr30k.SENTENCES},
    "cvat": {"annotations.xml": test_cvat.XML},
    "yolo": {"data.yaml": test_yolo.YAML, "labels/a.txt": "0 0.5 0.5 0.2 0.4\n1 0.1 0.1 0.2 0.1 0.2 0.2\n"},
    "open_images": {"val-annotations-bbox.csv": test_open_images.BOXES, "class-descriptions.csv": "/m/01,Cat\n"},
}


def places(value, path=()):
    yield path
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from places(value[key], (*path, key))


def changed(content, rng):
    """A copy with one value, however deep, replaced by an odd one or left out."""
    content = json.loads(json.dumps(content))
    *way, last = rng.choice([path for path in places(content) if path])
    at = content
    for key in way:
        at = at[key]
    if rng.random() < 0.25:
        del at[last]
    else:
        at[last] = rng.choice(ODD)
    return content


def damaged(text, rng):
    raw = bytearray(text.encode())
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(raw))
        raw[at : at + rng.randint(0, 3)] = bytes(
            rng.choice(b"<>/=\"'&;,.09 \n\t-xe\xff\x00") for _ in range(rng.randint(0, 3))
        )
    return bytes(raw)


def read_all(name, folder):
    try:
        source = opened(name, FolderOptions(path=str(folder)))
    except SynthError:
        return
    assert all(fault.reason for fault in source.faults)
    for k in range(len(source)):
        try:
            scene = source.scene(k, "all", 0)
            for obj in scene.objects:
                assert 0 <= obj.box[0] < obj.box[2] <= scene.width and obj.name in scene.vocabulary
                obj.pixels()
            assert all(fault.reason for fault in source.object_faults(k))
            scene.image_bytes()
        except PictureFault as problem:
            assert problem.fault.reason


@pytest.mark.parametrize("name", [*JSON, *TEXT])
def test_no_content_is_more_than_a_fault_or_a_typed_error(name):
    rng = random.Random(name)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        draw(folder / "a.png", folder / "images" / "a.png", folder / "JPEGImages" / "a.png")
        for _ in range(60):
            files = JSON.get(name) or TEXT[name]
            chosen = rng.choice(sorted(files))
            for file, content in files.items():
                if name in JSON:
                    dump(folder / file, changed(content, rng) if file == chosen else content)
                else:
                    dump(folder / file, "")
                    (folder / file).write_bytes(damaged(content, rng) if file == chosen else content.encode())
            read_all(name, folder)
