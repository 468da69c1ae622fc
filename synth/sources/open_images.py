"""Open Images: boxes and image-level labels in CSV files, one set per split."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from synth.errors import SourceError
from synth.sources import class_tree
from synth.sources.annotation import Annotated, Thing
from synth.sources.fault import Fault
from synth.sources.format import Format, Items, digest_of
from synth.sources.join import Join
from synth.sources.options import Folder
from synth.sources.pictures import PictureFolder
from synth.sources.safe_xml import as_number

_BOXES = ("*annotations-bbox.csv", "annotations/*annotations-bbox.csv")
_NAMES = ("*class-descriptions-boxable.csv", "*class-descriptions*.csv", "*/*class-descriptions*.csv")
_SPLITS = ("train", "validation", "test")
_COLUMNS = ("ImageID", "LabelName", "XMin", "XMax", "YMin", "YMax")


def read(folder: Folder, work: Path) -> Items:
    """Yield the pictures that have boxes; a box with ``IsGroupOf`` is a crowd.

    A name is absent where a person verified so: image-level labels of confidence 0 in ``*imagelabels*.csv`` beside.
    Boxes are drawn under the most particular label: where the tree of classes says that a thing listed is also one of
    another name, that name is neither absent nor listed in full.
    """
    names = _names(folder.names(*_NAMES))
    above = _above(class_tree.ancestors(class_tree.find(folder.path)), names)
    root = _pictures(folder).root
    for path in folder.every_annotations(*_BOXES):
        split = next((split for split in _SPLITS if split in path.name), None)
        subfolder = f"{split}/" if split and (root / split).is_dir() else ""
        with Join(work) as join:
            bad: list[Fault] = []
            join.fill("box", _rows(path, _COLUMNS, bad))
            for labels in _labels(path, split):
                join.fill("label", _rows(labels, ("ImageID", "LabelName", "Confidence"), bad))
            yield from bad
            for key in join.keys("box"):
                things = [_thing(k, row, names) for k, row in enumerate(join.of("box", key))]
                labels = [row for row in join.of("label", key) if as_number(row["Confidence"]) == 0]
                absent = {names[row["LabelName"]] for row in labels if row["LabelName"] in names}
                listed = {thing.name for thing in things}
                unsure = set().union(*(above.get(name, ()) for name in listed))
                yield Annotated(
                    file=f"{subfolder}{key}.jpg", fractions=True, things=things, split=split, unsure=sorted(unsure),
                    absent=sorted(absent - listed - unsure),
                )  # fmt: skip


def _thing(k: int, row: dict, names: dict[str, str]) -> Thing:
    return Thing(
        id=k, name=names.get(row["LabelName"]), row=f"box {k + 1}", crowd=row.get("IsGroupOf") == "1",
        box=[as_number(row[side]) for side in ("XMin", "YMin", "XMax", "YMax")],
    )  # fmt: skip


def _rows(path: Path, columns: tuple[str, ...], bad: list[Fault]) -> Iterator[tuple[str, dict]]:
    try:
        with open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
            reader = csv.DictReader(file)
            missing = [name for name in columns if name not in (reader.fieldnames or ())]
            if missing:
                raise SourceError(
                    f"{path} has no column {missing[0]}", why=f"it has {', '.join(reader.fieldnames or ())}",
                    fix="use the files of the Open Images site as they are",
                )  # fmt: skip
            for number, row in enumerate(reader, start=2):
                if row["ImageID"] and all(row[name] is not None for name in columns):
                    yield row["ImageID"], {key: row.get(key) for key in (*columns[1:], "IsGroupOf")}
                else:
                    bad.append(Fault("row with too few columns", f"{path.name}: line {number}"))
    except csv.Error as problem:
        raise SourceError(f"{path} is not CSV", why=str(problem), fix="download it again") from problem


def _names(path: Path) -> dict[str, str]:
    with open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
        return {row[0]: row[1].strip().lower() for row in csv.reader(file) if len(row) == 2 and row[0] != "LabelName"}


def _above(tree: dict[str, frozenset[str]], names: dict[str, str]) -> dict[str, set[str]]:
    """For each name, the names of all classes above it."""
    above: dict[str, set[str]] = {}
    for label, parents in tree.items():
        if label in names:
            above.setdefault(names[label], set()).update(names[p] for p in parents if p in names)
    return {name: found - {name} for name, found in above.items()}


def _labels(boxes: Path, split: str | None) -> list[Path]:
    return sorted(boxes.parent.glob(f"*{split}*imagelabels*.csv" if split else "*imagelabels*.csv"))


def _pictures(folder: Folder) -> PictureFolder:
    return PictureFolder(folder.pictures("images", "data"))


def _files(folder: Folder) -> Iterator[Path]:
    for path in folder.every_annotations(*_BOXES):
        yield path
        yield from _labels(path, next((split for split in _SPLITS if split in path.name), None))
    yield folder.names(*_NAMES)
    if (tree := class_tree.find(folder.path)) is not None:
        yield tree


FORMAT = Format(
    read=read, pictures=_pictures, digest=lambda folder: digest_of(_files(folder), folder.path), own_splits=True,
    expects="*annotations-bbox.csv, *class-descriptions*.csv, and images/ (or train/, validation/, test/)",
    signs=tuple((pattern,) for pattern in _BOXES), uses=("annotations", "images", "names"),
)  # fmt: skip
