"""The COCO file that many formats build on: streamed, joined on disk, its bad rows named."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import ijson

from synth.errors import SourceError
from synth.sources.annotation import Outline, Thing, corners
from synth.sources.fault import Fault
from synth.sources.join import Join

_ID = (int, str)


def items(path: Path, prefix: str) -> Iterator[Any]:
    """Yield the values under an ijson prefix, one at a time; raises ``SourceError`` for a file that is not JSON."""
    try:
        with open(path, "rb") as file:
            yield from ijson.items(_Plain(file), prefix, use_float=True)
    except (ijson.JSONError, UnicodeDecodeError, OSError) as problem:
        raise _bad(path, str(problem).strip().splitlines()[0]) from problem


def _bad(path: Path, why: str) -> SourceError:
    return SourceError(
        f"{path} is not a COCO file, or a broken one", why=why,
        fix="export it as COCO object detection: images, annotations with bbox, categories",
    )  # fmt: skip


class CocoFile:
    """``images`` and ``annotations`` of one file, joined; use it in a ``with`` block.

    Args:
        name: makes the name of a thing from a row of ``categories``. needed: keys every image row must have, besides
            id, width and height.

    Raises ``SourceError`` when it holds no usable picture, or two of one id.
    """

    def __init__(
        self, path: Path, work: Path, *, name: Callable[[dict], str] = lambda row: row["name"],
        needed: tuple[str, ...] = ("file_name",),
    ) -> None:  # fmt: skip
        self.path = path
        self._faults: list[Fault] = []
        rows = list(items(path, "categories.item"))
        good = [r for r in rows if _has(r, {"id": _ID, "name": str})]
        self.categories = {row["id"]: row for row in good}
        self.names = {row["id"]: name(row) for row in good}
        self._count("category without id and name", len(rows) - len(good))
        licences = (row for row in items(path, "licenses.item") if isinstance(row, dict) and is_id(row.get("id")))
        self.licences = {row["id"]: row.get("name") or row.get("url") for row in licences}
        self.join = Join(work)
        try:
            self.join.fill("image", self._usable("images", {"id": _ID, **dict.fromkeys(needed, str)}, "id"))
            self.join.fill("annotation", self._usable("annotations", {"image_id": _ID}, "image_id"))
            for twice in self.join.twice("image"):
                raise _bad(path, f"two images have the same id {twice!r}")
            if next(self.join.all("image"), None) is None:
                raise _bad(path, f"it lists no picture with id, {', '.join(needed)}, width and height")
        except BaseException:
            self.join.__exit__()
            raise

    def __enter__(self) -> CocoFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.join.__exit__()

    def pictures(self) -> Iterator[tuple[dict, list[dict]]]:
        """Yield each image row with its annotation rows."""
        for key, image in self.join.all("image"):
            yield image, self.join.of("annotation", key)

    def faults(self) -> Iterator[Fault]:
        """Yield the rows that belong to no picture."""
        yield from self._faults
        for row in self.join.strays("annotation", "image"):
            yield Fault("annotation of an unlisted picture", f"annotation {row.get('id')}")

    def licence(self, image: dict) -> str | None:
        """Return the licence that an image row names, if it does."""
        number = image.get("license")
        found = self.licences.get(number) if is_id(number) else None
        return found if isinstance(found, str) else None

    def thing(self, number: int, row: dict) -> Thing:
        """Return an annotation row as a thing; ``number`` is its place among those of its picture."""
        category = row.get("category_id")
        return Thing(
            id=number, name=self.names.get(category) if is_id(category) else None, box=corners(row.get("bbox")),
            row=f"annotation {row.get('id', number)}", crowd=bool(row.get("iscrowd")),
            outline=outline_of(row.get("segmentation")),
        )  # fmt: skip

    def _usable(self, part: str, kinds: dict, key: str) -> Iterator[tuple[Any, dict]]:
        bad = 0
        for row in items(self.path, f"{part}.item"):
            if _has(row, kinds):
                yield row[key], row
            else:
                bad += 1
        self._count(f"row of {part} without {' and '.join(kinds)}", bad)

    def _count(self, reason: str, times: int) -> None:
        self._faults += [Fault(reason, self.path.name)] * times


def outline_of(segmentation: Any) -> Outline | None:
    """Return COCO's segmentation as an outline: polygons, or run lengths in either form."""
    if isinstance(segmentation, list) and segmentation and all(isinstance(part, list) for part in segmentation):
        return {"polygons": segmentation}
    if isinstance(segmentation, dict) and {"counts", "size"} <= set(segmentation):
        return {"rle": {"counts": segmentation["counts"], "size": segmentation["size"]}}
    return None


def is_id(value: Any) -> bool:
    """Whether a value can be an id: a whole number or a word."""
    return isinstance(value, _ID)


def _has(row: Any, kinds: dict) -> bool:
    return isinstance(row, dict) and all(isinstance(row.get(key), kind) for key, kind in kinds.items())


class _Plain:
    """A JSON file without what Python's own writer puts into it and JSON does not know: NaN and Infinity become null.

    A box with one is then quarantined as any other that is not four numbers. Inside a text they change too, if they
    stand between commas; no name was ever met that does.
    """

    _WORDS = re.compile(rb"(?:^|(?<=[\[,:\s]))(?:NaN|-?Infinity)(?=[\],}\s]|$)")

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._held = file, b""
        if file.read(3) != b"\xef\xbb\xbf":  # a mark that some editors put in front
            file.seek(0)

    def read(self, size: int = -1) -> bytes:
        """Return up to about ``size`` bytes more, empty at the end only; nothing for 0."""
        while size:
            new = self._file.read(size)
            data = self._held + new
            cut = data.rfind(b",") + 1 if new else len(data)  # never inside of a word
            self._held, data = data[cut:], data[:cut]
            if data or not new:
                return self._WORDS.sub(b"null", data) if b"NaN" in data or b"Infinity" in data else data
        return b""
