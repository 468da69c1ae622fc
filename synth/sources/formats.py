"""The table of annotated formats, the more particular first. A new one is one file with a ``FORMAT`` and a row here."""

from __future__ import annotations

from pathlib import Path

from synth.errors import SettingsError, SourceError
from synth.sources import (
    coco,
    cvat,
    flickr30k,
    hub_dataset,
    labelme,
    lvis,
    objects365,
    open_images,
    panoptic,
    refcoco,
    visual_genome,
    voc,
    yolo,
)
from synth.sources.format import Format

FORMATS: dict[str, Format] = {
    "refcoco": refcoco.FORMAT,
    "panoptic": panoptic.FORMAT,
    "lvis": lvis.FORMAT,
    "objects365": objects365.FORMAT,
    "flickr30k": flickr30k.FORMAT,
    "visual_genome": visual_genome.FORMAT,
    "open_images": open_images.FORMAT,
    "cvat": cvat.FORMAT,
    "datasets": hub_dataset.FORMAT,
    "coco": coco.FORMAT,
    "voc": voc.FORMAT,
    "yolo": yolo.FORMAT,
    "labelme": labelme.FORMAT,
}


def detect(path: str) -> str:
    """Return the name of the first format that a folder's files look like; raises ``SourceError`` when none does."""
    if not path:
        raise SettingsError("source=auto needs a folder", why="folder.path is empty", fix="folder.path=path/to/folder")
    for name, form in FORMATS.items():
        if form.fits(Path(path)):
            return name
    looked = "; ".join(f"{name}: {form.expects}" for name, form in FORMATS.items())
    raise SourceError(
        f"{path} holds no annotations of a known format", why=f"looked for {looked}",
        fix="choose the folder above these files, or name the format with source=... and its files with folder.*",
    )  # fmt: skip
