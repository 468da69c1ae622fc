"""RefCOCO, RefCOCO+ and RefCOCOg: sentences that mean one object each, over COCO annotations."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from synth.errors import SourceError
from synth.sources.annotation import Annotated
from synth.sources.coco_file import CocoFile, is_id, items
from synth.sources.fault import Fault
from synth.sources.format import Format, Items, digest_of
from synth.sources.options import Folder
from synth.sources.pictures import PictureFolder
from synth.sources.plain_pickle import load

_USUAL = ("refs(*).p", "refs(*).json", "refs*.p", "refs*.json")
_IMAGES = ("images", "train2014", "../images/mscoco/images/train2014")


def read(folder: Folder, work: Path) -> Items:
    """Yield each picture once per split in which it has sentences, with those of that split only.

    The splits are the authors' (train, val, testA, testB, test). The objects are all that COCO annotates there.
    """
    path = folder.annotations(*_USUAL)
    with CocoFile(_instances(folder), work) as coco:
        yield from coco.faults()
        bad: list[Fault] = []
        coco.join.fill("ref", _usable(path, bad))
        yield from bad
        for row in coco.join.strays("ref", "image"):
            yield Fault("sentence about an unlisted picture", f"ref {row.get('ref_id')}")
        for image, rows in coco.pictures():
            things = [coco.thing(k, row) for k, row in enumerate(rows)]
            boxes = {row["id"]: thing.box for row, thing in zip(rows, things, strict=True) if is_id(row.get("id"))}
            regions: dict[str, list] = {}
            for ref in coco.join.of("ref", image["id"]):
                if ref["ann_id"] not in boxes:
                    yield Fault("sentence about an unknown object", f"ref {ref.get('ref_id')}")
                    continue
                said = regions.setdefault(ref["split"], [])
                said += [[text, boxes[ref["ann_id"]], True] for text in _sentences(ref)]
            for split, said in regions.items():
                yield Annotated(
                    file=image["file_name"], width=image.get("width", 0), height=image.get("height", 0),
                    things=things, regions=said, licence=coco.licence(image), split=split,
                )  # fmt: skip


def _usable(path: Path, bad: list[Fault]) -> Iterator[tuple[int | str, dict]]:
    for number, ref in enumerate(_refs(path)):
        keys = ("image_id", "ann_id")
        if (
            isinstance(ref, dict)
            and all(is_id(ref.get(key)) for key in keys)
            and isinstance(ref.get("split"), str)
            and isinstance(ref.get("sentences"), (list, tuple))
        ):
            kept = {key: ref[key] for key in ("ref_id", *keys, "split") if key == "split" or is_id(ref.get(key))}
            yield ref["image_id"], {**kept, "sentences": [_text(s) for s in ref["sentences"]]}
        else:
            bad.append(Fault("row without image_id, ann_id, split or sentences", f"{path.name}: {number}"))


def _refs(path: Path) -> Iterator[Any]:
    if path.suffix == ".json":
        yield from items(path, "item")
        return
    content = load(path)
    if not isinstance(content, list):
        raise SourceError(f"{path} holds no list", why="refs(...).p is a list of dicts", fix="download it again")
    yield from content


def _text(sentence: Any) -> str:
    """Return the sentence as it was typed; the pickle of RefCOCOg has it cleaned only."""
    said = sentence.get("raw") or sentence.get("sent") if isinstance(sentence, dict) else None
    return said.strip() if isinstance(said, str) else ""


def _sentences(ref: dict) -> list[str]:
    return list(dict.fromkeys(text for text in ref["sentences"] if text))


def _instances(folder: Folder) -> Path:
    path = folder.path / "instances.json"
    if not path.is_file():
        raise SourceError(
            f"no instances.json in {folder.path}", why="the sentences name objects by its annotation ids",
            fix="folder.path is the folder refcoco, refcoco+ or refcocog with refs(...).p and instances.json",
        )  # fmt: skip
    return path


FORMAT = Format(
    read=read, pictures=lambda folder: PictureFolder(folder.pictures(*_IMAGES)), own_splits=True,
    digest=lambda folder: digest_of([folder.annotations(*_USUAL), _instances(folder)], folder.path),
    expects="refs(*).p or refs(*).json, instances.json, and train2014/ or images/", uses=("annotations", "images"),
    signs=tuple((pattern, "instances.json") for pattern in _USUAL),
)  # fmt: skip
