"""YOLO folders: a text file of boxes or polygons for each picture, ``labels/`` beside ``images/``, names in YAML."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import yaml

from synth.errors import SourceError
from synth.sources.annotation import Annotated, Thing, Vocabulary
from synth.sources.fault import Fault
from synth.sources.format import Format, Items, below, digest_of
from synth.sources.masks import extent
from synth.sources.options import Folder
from synth.sources.pictures import SUFFIXES, PictureFolder
from synth.sources.safe_xml import as_number

_NAMES = ("data.yaml", "dataset.yaml", "*.yaml", "*.yml", "classes.txt", "obj.names", "*.names")
_SPLITS = ("train", "val", "valid", "validation", "test")


def read(folder: Folder, work: Path) -> Items:
    """Yield every picture below a folder ``images``; one without a label file has no objects.

    Coordinates are fractions, so the size comes from the picture's header. A part of the path that is called train,
    val or test is the split, and so is a list of files that the YAML names.
    """
    names, lists = _names(folder)
    yield Vocabulary(tuple(names.values()))
    root = folder.path
    for path in _pictures(folder):
        file = path.relative_to(root).as_posix()
        split = next((part for part in path.relative_to(root).parts[:-1] if part in _SPLITS), None)
        things, faults = _things(_label(root, file), names)
        yield from faults
        yield Annotated(file=file, fractions=True, things=things, split=lists.get(file, split))
    for label in _labels(folder):
        if not any(_beside(label, suffix).exists() for suffix in (*SUFFIXES, *map(str.upper, SUFFIXES))):
            yield Fault("annotation of an unlisted picture", label.relative_to(root).as_posix())


def _things(label: Path, names: dict[int, str]) -> tuple[list[Thing], list[Fault]]:
    if not label.is_file():
        return [], []
    try:
        lines = label.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return [], [Fault("unreadable annotation file", label.name)]
    return [_thing(k, line.split(), names) for k, line in enumerate(lines) if line.strip()], []


def _thing(k: int, words: list[str], names: dict[int, str]) -> Thing:
    """Return a line: ``class cx cy width height`` or ``class x y x y x y ...``, all fractions of the picture."""
    category, *values = (as_number(word) for word in words)
    box = outline = None
    if len(values) == 4 and None not in values:
        cx, cy, width, height = values
        box = [cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2]
    elif len(values) >= 6 and len(values) % 2 == 0 and None not in values:
        box, outline = extent([values]), {"polygons": [values]}
    return Thing(id=k, name=names.get(category), box=box, row=f"line {k + 1}", outline=outline)


def _names(folder: Folder) -> tuple[dict[int, str], dict[str, str]]:
    """Return category names by number, and the splits of the files that the YAML lists."""
    path = folder.names(*_NAMES)
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix not in (".yaml", ".yml"):
            return dict(enumerate(line.strip() for line in text.splitlines())), {}
        content = yaml.safe_load(text)
        names = content["names"]
        pairs = names.items() if isinstance(names, dict) else enumerate(names)
        return {int(k): str(name) for k, name in pairs}, _lists(folder, content)
    except (OSError, ValueError, TypeError, KeyError, RecursionError, yaml.YAMLError) as problem:
        raise SourceError(
            f"no category names in {path}", why=str(problem).splitlines()[0] or type(problem).__name__,
            fix="data.yaml needs names: [cat, dog] or names: {0: cat, 1: dog}; or name a text file in folder.names",
        ) from problem  # fmt: skip


def _lists(folder: Folder, content: dict) -> dict[str, str]:
    found = {}
    for split in _SPLITS:
        listed = content.get(split)
        for name in listed if isinstance(listed, list) else [listed]:
            path = folder.path / name if isinstance(name, str) and name.endswith(".txt") else None
            if path is not None and path.is_file():
                lines = path.read_text(encoding="utf-8").splitlines()
                found |= {line.strip().removeprefix("./"): split for line in lines}
    return found


def _label(root: Path, file: str) -> Path:
    """Return the label file of a picture: the last folder called images becomes labels, the suffix .txt."""
    parts = file.split("/")
    if "images" in parts[:-1]:
        parts[len(parts) - 2 - parts[-2::-1].index("images")] = "labels"
    return (root / "/".join(parts)).with_suffix(".txt")


def _beside(label: Path, suffix: str) -> Path:
    parts = list(label.parts)
    parts[len(parts) - 1 - parts[::-1].index("labels")] = "images"
    return Path(*parts).with_suffix(suffix)


def _pictures(folder: Folder) -> Iterator[Path]:
    return (path for path in below(folder.path, *SUFFIXES) if "images" in path.relative_to(folder.path).parts[:-1])


def _labels(folder: Folder) -> Iterator[Path]:
    return (path for path in below(folder.path, ".txt") if "labels" in path.relative_to(folder.path).parts[:-1])


def _digest(folder: Folder) -> str:
    return digest_of([folder.names(*_NAMES), *_pictures(folder), *_labels(folder)], folder.path)


FORMAT = Format(
    read=read, pictures=lambda folder: PictureFolder(folder.path), digest=_digest, uses=("names",),
    expects="data.yaml (or classes.txt), images/ and labels/", own_splits=True,
    signs=(("labels/*.txt",), ("labels/*/*.txt",), ("*/labels/*.txt",)),
)  # fmt: skip
