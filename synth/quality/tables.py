"""Read a finished dataset folder shard by shard, a row group at a time: memory does not grow with the folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from synth.errors import SourceError
from synth.sources.fault import PictureFault
from synth.sources.pictures import PictureFolder

_AT_ONCE = 100  # rows; a row of the images table holds a whole encoded picture


@dataclass(frozen=True, slots=True)
class Shard:
    """The two tables made from one run of scenes: every record's picture is in the images table beside it."""

    split: str
    records: Path
    images: Path


@dataclass(frozen=True, slots=True)
class Encoded:
    """An encoded picture, None where it cannot be had, and the (width, height) that its boxes are in."""

    data: bytes | None
    size: tuple[int, int]


class Tables:
    """A dataset folder that ``synth.make`` finished.

    Raises ``SourceError`` when the folder is no such thing, when a table is missing or unreadable, and when the
    manifest names files outside the folder.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        path = self.folder / "manifest.json"
        try:
            splits = json.loads(path.read_text(encoding="utf-8"))["splits"]
            self.splits: dict[str, dict] = {str(name): dict(entry) for name, entry in splits.items()}
            named = {name: sorted(map(str, entry["files"])) for name, entry in self.splits.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as problem:
            raise SourceError(
                f"{self.folder} is not a finished dataset folder",
                why=f"its manifest.json cannot be read: {problem!r}",
                fix="give a folder that python -m synth has finished",
            ) from problem
        self.shards = [
            Shard(split, self._inside(name), self._inside(name.replace("records/", "images/", 1)))
            for split, names in named.items() for name in names if name.startswith("records/")
        ]  # fmt: skip

    def _inside(self, name: str) -> Path:
        path = (self.folder / name).resolve()
        if not path.is_relative_to(self.folder.resolve()) or not path.is_file():
            raise SourceError(
                f"{self.folder} lacks {name}", why="the manifest names it, and it is missing or outside the folder",
                fix="make the folder again, or copy all of it",
            )  # fmt: skip
        return path

    def records(self, shard: Shard) -> Iterator[dict]:
        """Yield the shard's records as dictionaries."""
        yield from _rows(shard.records, None)

    def encoded(self, shard: Shard, image_ids: set[str]) -> dict[str, Encoded]:
        """Return the encoded pictures of the given ids, reading only the row groups that hold them."""
        found = {}
        with _opened(shard.images) as file:
            for group in range(file.num_row_groups):
                here = file.read_row_group(group, columns=["image_id"])["image_id"].to_pylist()
                if image_ids.isdisjoint(here):
                    continue
                rows = file.read_row_group(group, columns=["image_id", "image", "width", "height"])
                for k, image_id in enumerate(here):
                    if image_id in image_ids:
                        (row,) = rows.slice(k, 1).to_pylist()
                        found[image_id] = Encoded(self.data(shard, row), (row["width"], row["height"]))
        return found

    def data(self, shard: Shard, picture: dict) -> bytes | None:
        """Return the encoded picture of a row; one that is only named is read from the split's ``pictures_root``.

        None where it is gone, or lies outside that folder.
        """
        image, root = picture["image"], self.splits[shard.split].get("pictures_root")
        if image["bytes"] is not None or root is None or not image["path"]:
            return image["bytes"]
        try:
            return PictureFolder(Path(root)).read(image["path"])
        except PictureFault:
            return None

    def image_ids(self, shard: Shard) -> list[str]:
        """Return the ids of the shard's pictures, in the order of ``pictures``."""
        with _opened(shard.images) as file:
            return file.read(columns=["image_id"])["image_id"].to_pylist()

    def pictures(self, shard: Shard, *, encoded: bool = True) -> Iterator[dict]:
        """Yield the shard's rows of the images table, without the encoded pictures when those are not needed."""
        columns = ["image_id", "width", "height", "objects"]
        yield from _rows(shard.images, [*columns, "image"] if encoded else columns)


def _rows(path: Path, columns: list[str] | None) -> Iterator[dict]:
    with _opened(path) as file:
        for batch in file.iter_batches(batch_size=_AT_ONCE, columns=columns):
            yield from batch.to_pylist()


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (OSError, pa.ArrowException) as problem:
        raise SourceError(
            f"cannot read {path}: {str(problem).splitlines()[0]}", why="the file is damaged, or not as synth wrote it",
            fix="make the folder again, or copy it again",
        ) from problem  # fmt: skip
