"""The files of the REFER family: `refs(...).p` or `.json` with sentences about objects of `instances.json`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lynx_moe.errors import ConfigError, RecordError
from lynx_moe.evaluation.protocols.coco_tables import CocoTables, Marked, read_coco, rows_of
from synth.sources.coco_file import is_id
from synth.sources.plain_pickle import SourceError, load

PICTURES = ("images", "train2014", "../images/mscoco/images/train2014", "../images/train2014")


@dataclass(frozen=True, slots=True)
class Said:
    """One sentence: `things` are what it means, none where it means nothing in the picture."""

    id: str
    text: str
    split: str
    image: dict
    things: tuple[Marked, ...]


def sentences(
    folder: Path, stem: str, split_by: str, splits: str, faults: Counter[str], outlines: bool = False
) -> Iterator[Said]:
    """Every sentence of the splits, in the file's order.

    As the authors' API reads them (`refer.py`, `grefer.py`): `ann_id` is one id or, in gRefCOCO, a list with -1 alone
    for no target. The text is the cleaned `sent`, which published numbers are computed with, or `raw` without it.

    Args:
        stem: "refs" or "grefs".
        split_by: who divided the data ("unc", "google", "umd"); "" takes the only file there is.
        splits: "val", or several as "testA+testB".

    Raises:
        RecordError: a file is missing or is not what it should be; a split is not in it.
        ConfigError: several files fit.
    """
    wanted = [name.strip() for name in splits.split("+") if name.strip()]
    tables = read_coco(folder / "instances.json", faults, outlines)
    refs = list(enumerate(_refs(_refs_file(folder, stem, split_by))))
    good = [(number, ref) for number, ref in refs if _is_ref(ref)]
    if len(good) < len(refs):
        faults["reference without image_id, ann_id, split or sentences"] += len(refs) - len(good)
    there = {ref["split"] for _, ref in good}
    missing = [name for name in wanted if name not in there]
    if missing or not wanted:
        raise RecordError(
            f"no split {' and no '.join(map(repr, missing)) or repr(splits)} in {folder}",
            why=f"the file has {', '.join(sorted(there)) or 'none'}",
            fix="split=NAME, or several as split=testA+testB",
        )
    for number, ref in good:
        if ref["split"] in wanted:
            yield from _of_one(ref, number, tables, faults)


def _of_one(ref: dict, number: int, tables: CocoTables, faults: Counter[str]) -> Iterator[Said]:
    image = tables.images.get(ref["image_id"])
    ids = [one for one in _listed(ref["ann_id"]) if one != -1]
    things = [tables.marked[one] for one in ids if is_id(one) and one in tables.marked]
    if image is None:
        faults["sentence about an unlisted picture"] += len(ref["sentences"])
    elif len(things) < len(ids) or any(thing.image != ref["image_id"] for thing in things):
        faults["sentence about an unknown object"] += len(ref["sentences"])
    else:
        name = ref.get("ref_id", f"row {number}")
        for k, sentence in enumerate(ref["sentences"]):
            text = _text(sentence)
            if text:
                yield Said(f"{name}-{k}", text, ref["split"], image, tuple(things))
            else:
                faults["sentence without words"] += 1


def _is_ref(ref: Any) -> bool:
    return (
        isinstance(ref, dict)
        and is_id(ref.get("image_id"))
        and bool(_listed(ref.get("ann_id")))
        and isinstance(ref.get("split"), str)
        and isinstance(ref.get("sentences"), list | tuple)
    )


def _listed(ids: Any) -> list:
    return list(ids) if isinstance(ids, list | tuple) else [] if ids is None else [ids]


def _text(sentence: Any) -> str:
    said = sentence.get("sent") or sentence.get("raw") if isinstance(sentence, dict) else None
    return said.strip() if isinstance(said, str) else ""


def _refs(path: Path) -> Iterator[Any]:
    if path.suffix == ".json":
        yield from rows_of(path, "item")
        return
    try:
        content = load(path)
    except SourceError as problem:
        raise RecordError(problem.message, why=problem.why, fix=problem.fix) from problem
    if not isinstance(content, list):
        raise RecordError(f"{path} holds no list", why="refs(...).p is a list of dicts", fix="download it again")
    yield from content


def _refs_file(folder: Path, stem: str, split_by: str) -> Path:
    names = [f"{stem}({split_by})"] if split_by else sorted({path.stem for path in folder.glob(f"{stem}(*).*")})
    # As in the authors' API, the pickle is taken where the same content lies there as JSON too.
    found = [path for name in names for path in (folder / f"{name}.p", folder / f"{name}.json") if path.is_file()]
    kinds = {path.stem for path in found}
    if not found:
        raise RecordError(
            f"no {names[0] if split_by else stem + '(...)'}.p or .json in {folder}",
            why="the sentences are in it",
            fix="folder is the one of the data set, such as refcoco+, with instances.json beside it",
        )
    if len(kinds) > 1:
        raise ConfigError(
            f"{folder} is divided in several ways: {', '.join(sorted(kinds))}",
            why="their splits overlap",
            fix=f"split_by={found[0].stem.removeprefix(stem).strip('()')}",
        )
    return found[0]
