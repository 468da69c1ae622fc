"""Visual Genome: objects with attributes, how they relate, and descriptions of regions, in one JSON file each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from synth.errors import SourceError
from synth.scene import iou
from synth.sources.annotation import Annotated, Thing, corners
from synth.sources.coco_file import is_id, items
from synth.sources.fault import Fault
from synth.sources.format import Format, Items, digest_of
from synth.sources.join import Join
from synth.sources.options import Folder
from synth.sources.pictures import PictureFolder

# The eleven basic colour words of English (Berlin and Kay 1969).
_COLOURS = {c: c for c in "black white red green yellow blue brown purple pink orange grey".split()} | {"gray": "grey"}
_PARTS = ("objects", "attributes", "relationships", "regions")
_FILES = dict(zip(_PARTS, ("objects", "attributes", "relationships", "region_descriptions"), strict=True))
_SAME = 0.7  # IoU from which two boxes of one name are one object: several people annotated each picture


def read(folder: Folder, work: Path) -> Items:
    """Yield the pictures of ``image_data.json``; of the other files those that are there are read.

    No name is known to be absent, and none to be listed in full: nobody was asked for everything.
    """
    with Join(work) as join:
        bad: list[Fault] = []
        join.fill("image", _usable(folder.path / "image_data.json", bad))
        for part, name in _FILES.items():
            if (path := folder.path / f"{name}.json").is_file():
                join.fill(part, _usable(path, bad))
        yield from bad
        for part in _PARTS:
            for row in join.strays(part, "image"):
                yield Fault("annotation of an unlisted picture", f"{_FILES[part]}.json: image {_id(row)}")
        for key, image in join.all("image"):
            rows = {part: [r for row in join.of(part, key) for r in _dicts(row.get(part))] for part in _PARTS}
            yield _picture(image, key, rows)


def _picture(image: dict, key: int | str, rows: dict[str, list[dict]]) -> Annotated:
    url = image.get("url")
    file = "/".join(url.split("/")[-2:]) if isinstance(url, str) else f"VG_100K/{key}.jpg"
    things, number_of = _things(rows["objects"])
    _describe(things, number_of, rows["attributes"])
    relations = []
    for row in rows["relationships"]:
        ends = [number_of.get(_object_id(row.get(end))) for end in ("subject", "object")]
        predicate = row.get("predicate")
        if None not in ends and isinstance(predicate, str) and predicate.strip():
            relations.append([ends[0], " ".join(predicate.lower().split()), ends[1]])
    regions = [
        [row["phrase"].strip(), corners([row.get(k) for k in ("x", "y", "width", "height")]), False]
        for row in rows["regions"] if isinstance(row.get("phrase"), str) and row["phrase"].strip()
    ]  # fmt: skip
    return Annotated(
        file=file, width=image.get("width", 0), height=image.get("height", 0), things=things, absent=[],
        exhaustive=False,
        relations=[list(row) for row in dict.fromkeys(map(tuple, relations))], regions=regions,
    )  # fmt: skip


def _things(rows: list[dict]) -> tuple[list[Thing], dict[Any, int]]:
    """Return the objects, each once, and which of them every object id means."""
    things: list[Thing] = []
    number_of: dict[Any, int] = {}
    for row in rows:
        names = row.get("names") if isinstance(row.get("names"), list) else [row.get("name")]
        name = names[0].strip().lower() if names and isinstance(names[0], str) else None
        box = corners([row.get(k) for k in ("x", "y", "w", "h")])
        same = next((t for t in things if t.name == name and box and t.box and iou(t.box, box) >= _SAME), None)
        if same is None:
            same = Thing(id=len(things), name=name, box=box, row=f"object {row.get('object_id')}")
            things.append(same)
        merged = row.get("merged_object_ids")
        for number in (row.get("object_id"), *(merged if isinstance(merged, list) else ())):
            if is_id(number):
                number_of[number] = same.id
    return things, number_of


def _describe(things: list[Thing], number_of: dict[Any, int], rows: list[dict]) -> None:
    """Give the things their traits, and colours to those names of which every instance has just one.

    A "red car" would mean two, were the other car of unknown colour red as well.
    """
    said: dict[int, list[str]] = {}
    for row in rows:
        number, words = number_of.get(_object_id(row)), row.get("attributes")
        if number is not None and isinstance(words, list):
            said.setdefault(number, []).extend(w.strip().lower() for w in words if isinstance(w, str) and w.strip())
    colours = {t.id: {_COLOURS[w] for w in said.get(t.id, ()) if w in _COLOURS} for t in things}
    doubtful = {t.name for t in things if len(colours[t.id]) != 1}
    for thing in things:
        traits = list(dict.fromkeys(said.get(thing.id, ())))
        if thing.name not in doubtful:
            thing.attributes = {"colour": next(iter(colours[thing.id]))}
            traits = [word for word in traits if word not in _COLOURS]
        thing.traits = traits


def _usable(path: Path, bad: list[Fault]) -> Iterator[tuple[int | str, dict]]:
    if not path.is_file():
        raise SourceError(
            f"no {path.name} in {path.parent}", why="it tells the size and the address of every picture",
            fix="put image_data.json and objects.json into folder.path",
        )  # fmt: skip
    for number, row in enumerate(items(path, "item")):
        key = _id(row) if isinstance(row, dict) else None
        if is_id(key):
            yield key, row
        else:
            bad.append(Fault("row without image_id", f"{path.name}: {number}"))


def _id(row: dict) -> Any:
    return row.get("image_id", row.get("id"))  # region_descriptions.json calls it id


def _object_id(row: Any) -> Any:
    number = row.get("object_id") if isinstance(row, dict) else None
    return number if is_id(number) else None


def _dicts(rows: Any) -> list[dict]:
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def _files(folder: Folder) -> Iterator[Path]:
    paths = (folder.path / f"{name}.json" for name in ("image_data", *_FILES.values()))
    return (path for path in paths if path.is_file())


FORMAT = Format(
    read=read, pictures=lambda folder: PictureFolder(folder.pictures("images")), uses=("images",),
    digest=lambda folder: digest_of(_files(folder), folder.path),
    expects="image_data.json and objects.json; also attributes.json, relationships.json, region_descriptions.json; "
    "VG_100K/ and VG_100K_2/",
    signs=(("image_data.json", "objects.json"),),
)  # fmt: skip
