"""COCO object detection: one JSON file with images, annotations and categories, and a folder of pictures."""

from __future__ import annotations

from pathlib import Path

from synth.sources.annotation import Annotated, Vocabulary
from synth.sources.coco_file import CocoFile
from synth.sources.format import Format, Items, digest_of
from synth.sources.options import Folder
from synth.sources.pictures import PictureFolder

# COCO itself, CVAT and FiftyOne, Roboflow, Label Studio.
_USUAL = (
    "instances.json", "annotations/instances*.json", "_annotations.coco.json", "annotations.json", "labels.json",
    "result.json", "*.json", "annotations/*.json",
)  # fmt: skip


def read(folder: Folder, work: Path) -> Items:
    """Yield the pictures of a COCO instances file; a crowd region makes its name unsure in its picture."""
    with CocoFile(folder.annotations(*_USUAL), work) as coco:
        yield Vocabulary(tuple(coco.names.values()))
        yield from coco.faults()
        for image, rows in coco.pictures():
            yield Annotated(
                file=image["file_name"], width=image.get("width", 0), height=image.get("height", 0),
                things=[coco.thing(k, row) for k, row in enumerate(rows)], licence=coco.licence(image),
            )  # fmt: skip


def pictures(folder: Folder) -> PictureFolder:
    """Return the pictures: ``images``, or the folder that the file is named after (instances_train2017)."""
    part = folder.annotations(*_USUAL).stem.rpartition("_")[2]
    return PictureFolder(folder.pictures(part, f"images/{part}", "images", "data"))


FORMAT = Format(
    read=read, pictures=pictures, digest=lambda folder: digest_of([folder.annotations(*_USUAL)], folder.path),
    expects="instances.json (or annotations/instances_*.json) and images/", uses=("annotations", "images"),
    signs=tuple((pattern,) for pattern in _USUAL[:6]),
)  # fmt: skip
