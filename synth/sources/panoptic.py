"""COCO panoptic: a JSON file of segments and, beside it, a folder of PNGs whose colours are the segments' ids."""

from __future__ import annotations

from pathlib import Path

from synth.sources.annotation import Annotated, Thing, Vocabulary
from synth.sources.coco_file import CocoFile, is_id
from synth.sources.fault import Fault, PictureFault
from synth.sources.format import Format, Items, digest_of
from synth.sources.options import Folder
from synth.sources.pictures import PictureFolder, safe_name

_USUAL = ("panoptic.json", "panoptic_*.json", "annotations/panoptic_*.json")


def read(folder: Folder, work: Path) -> Items:
    """Yield the pictures with their countable things; sky, grass and other stuff is neither asked about nor absent."""
    path = folder.annotations(*_USUAL)
    painted = path.with_suffix("")
    with CocoFile(path, work) as coco:
        stuff = {key for key, row in coco.categories.items() if row.get("isthing") == 0}
        yield Vocabulary(tuple(name for key, name in coco.names.items() if key not in stuff))
        yield from coco.faults()
        for image, rows in coco.pictures():
            things: list[Thing] = []
            for row in rows:
                segments = row.get("segments_info")
                if not isinstance(segments, list) or not _is_safe(row.get("file_name")):
                    yield Fault("annotation without segments or a file name", f"annotation of image {image['id']}")
                    continue
                for segment in segments:
                    if not isinstance(segment, dict) or is_id(number := segment.get("category_id")) and number in stuff:
                        continue
                    thing = coco.thing(len(things), segment)
                    thing.outline = {"ids": {"folder": str(painted), "file": row["file_name"], "id": segment.get("id")}}
                    things.append(thing)
            yield Annotated(
                file=image["file_name"], width=image.get("width", 0), height=image.get("height", 0), things=things,
                licence=coco.licence(image),
            )  # fmt: skip


def _is_safe(file: object) -> bool:
    try:
        return isinstance(file, str) and safe_name(file) is None
    except PictureFault:
        return False


def _pictures(folder: Folder) -> PictureFolder:
    part = folder.annotations(*_USUAL).stem.rpartition("_")[2]
    return PictureFolder(folder.pictures(part, f"images/{part}", "images"))


FORMAT = Format(
    read=read, pictures=_pictures, digest=lambda folder: digest_of([folder.annotations(*_USUAL)], folder.path),
    expects="annotations/panoptic_*.json, a folder of PNGs of the same name beside it, and val2017/ or images/",
    signs=tuple((p,) for p in _USUAL), uses=("annotations", "images"),
)  # fmt: skip
