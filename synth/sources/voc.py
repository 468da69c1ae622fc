"""Pascal VOC: one XML file per picture in ``Annotations/``, pictures in ``JPEGImages/``, splits in ``ImageSets/``."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from xml.etree.ElementTree import Element

from synth.errors import SourceError
from synth.sources.annotation import Annotated, Thing, is_number
from synth.sources.fault import Fault, PictureFault
from synth.sources.format import Format, Items, below, digest_of
from synth.sources.options import Folder
from synth.sources.pictures import SUFFIXES, PictureFolder
from synth.sources.safe_xml import XML_FAULTS, number, parse, text

_SPLITS = ("train", "val", "test")


def read(folder: Folder, work: Path) -> Items:
    """Yield the picture of each XML file; its split is that of ``ImageSets/Main`` where one lists it."""
    splits, pictures = _splits(folder), _pictures(folder)
    for path in below(_annotations(folder), ".xml"):
        row = path.relative_to(folder.path).as_posix()
        try:
            root = parse(path)
        except XML_FAULTS:
            yield Fault("unreadable annotation file", row)
            continue
        file = picture_of(path, text(root, "filename"), pictures)
        if isinstance(file, Fault):
            yield Fault(file.reason, row)
            continue
        yield Annotated(
            file=file, **size(root), split=splits.get(path.stem),
            things=[thing(k, node) for k, node in enumerate(root.iterfind("object"))],
        )  # fmt: skip


def picture_of(path: Path, stated: str, pictures: PictureFolder) -> str | Fault:
    """Return which picture an annotation file is about: the one it states, unless files say otherwise.

    Renaming leaves the stated name behind, so a picture called like the annotation file comes first, as all tools have
    it. Without one, a stated picture that another annotation file is called like is that file's: its boxes lie there.
    """
    named = PurePosixPath(stated.replace("\\", "/"))
    if named.stem == path.stem and named.suffix.lower() in SUFFIXES:
        return stated
    for parent, suffix in itertools.product((named.parent, PurePosixPath()), (named.suffix, *SUFFIXES)):
        own = (parent / f"{path.stem}{suffix}").as_posix()
        with suppress(PictureFault):
            pictures.require(own)
            return own
    if not stated:
        return Fault("annotation without a file name", str(path))
    if os.path.exists(path.parent / f"{named.stem}{path.suffix}"):
        return Fault("file name of a picture that another annotation file is about", str(path))
    return stated


def thing(k: int, node: Element) -> Thing:
    """Return an <object>; VOC counts pixels from 1 and includes the last, a box here is from edge to edge."""
    box = [number(node, f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")]
    if all(map(is_number, box)):
        box = [box[0] - 1, box[1] - 1, box[2], box[3]]
    return Thing(id=k, name=text(node, "name"), box=box, row=f"object {k + 1}")


def size(root: Element) -> dict:
    """Return width and height; tools that do not know them write 0 or nothing, then the picture's header tells."""
    width, height = number(root, "size/width"), number(root, "size/height")
    return {"width": width, "height": height} if width and height else {}


def _splits(folder: Folder) -> dict[str, str]:
    """Return the split of each picture by its name without suffix."""
    found = {}
    for split in _SPLITS:
        path = folder.path / "ImageSets" / "Main" / f"{split}.txt"
        if path.is_file():
            found |= {line.split()[0]: split for line in path.read_text(encoding="utf-8").splitlines() if line.strip()}
    return found


def _annotations(folder: Folder) -> Path:
    path = folder.annotations("Annotations", "annotations")
    if not path.is_dir():
        raise SourceError(
            f"{path} is not a folder",
            why="Pascal VOC has one XML file per picture",
            fix="folder.annotations=Annotations",
        )
    return path


def _files(folder: Folder) -> Iterator[Path]:
    yield from below(_annotations(folder), ".xml")
    yield from sorted((folder.path / "ImageSets" / "Main").glob("*.txt"))


def _pictures(folder: Folder) -> PictureFolder:
    return PictureFolder(folder.pictures("JPEGImages", "images"))


FORMAT = Format(
    read=read, pictures=_pictures,
    digest=lambda folder: digest_of(_files(folder), folder.path), expects="Annotations/*.xml and JPEGImages/",
    uses=("annotations", "images"), signs=(("Annotations/*.xml",), ("annotations/*.xml",)), own_splits=True,
)  # fmt: skip
