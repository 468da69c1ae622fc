"""Objects365: COCO's layout, pictures in patches."""

from __future__ import annotations

from pathlib import Path

from synth.sources.annotation import Annotated, Vocabulary
from synth.sources.coco_file import CocoFile
from synth.sources.format import Format, Items, digest_of
from synth.sources.options import Folder
from synth.sources.pictures import PictureFolder

_USUAL = (
    "zhiyuan_objv2_*.json",
    "annotations/zhiyuan_objv2_*.json",
    "objects365_*.json",
    "annotations/objects365_*.json",
)


def read(folder: Folder, work: Path) -> Items:
    """Yield the pictures; ``iscrowd`` makes a name unsure as in COCO, and a name with a slash is either of two."""
    root = _pictures(folder).root
    layout = None
    with CocoFile(folder.annotations(*_USUAL), work, name=lambda row: plain_name(row["name"])) as coco:
        yield Vocabulary(tuple(coco.names.values()))
        yield from coco.faults()
        for image, rows in coco.pictures():
            parts = image["file_name"].split("/")
            if layout is None:  # how much of the stated path is there differs by how the archives were unpacked
                layout = next((n for n in range(len(parts), 0, -1) if (root / "/".join(parts[-n:])).is_file()), None)
            yield Annotated(
                file="/".join(parts[-(layout or 2) :]), width=image.get("width", 0), height=image.get("height", 0),
                things=[coco.thing(k, row) for k, row in enumerate(rows)], licence=coco.licence(image),
            )  # fmt: skip


def plain_name(name: str) -> str:
    """Return how a person says a name.

    >>> plain_name("Cabinet/shelf")
    'cabinet or shelf'
    """
    return " or ".join(part.strip() for part in name.lower().split("/"))


def _pictures(folder: Folder) -> PictureFolder:
    part = folder.annotations(*_USUAL).stem.rpartition("_")[2]
    return PictureFolder(folder.pictures(part, f"images/{part}", "images"))


FORMAT = Format(
    read=read, pictures=_pictures, digest=lambda folder: digest_of([folder.annotations(*_USUAL)], folder.path),
    expects="zhiyuan_objv2_*.json and train/patch*/", signs=tuple((p,) for p in _USUAL), uses=("annotations", "images"),
)  # fmt: skip
