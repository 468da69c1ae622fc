"""Object detection in the layout of the ``datasets`` library: a folder it saved, or the name of a dataset."""

from __future__ import annotations

import hashlib
import io
from functools import lru_cache
from itertools import zip_longest
from pathlib import Path
from typing import Any

from synth.errors import SourceError
from synth.sources.annotation import Annotated, Thing, Vocabulary, corners
from synth.sources.fault import PictureFault
from synth.sources.format import Format, Items
from synth.sources.options import Folder, one_path
from synth.sources.pictures import Size, size_of

_CATEGORY = ("category", "category_id", "label", "labels", "name", "categories")
_BOX = ("bbox", "bboxes", "box", "boxes")


def read(folder: Folder, work: Path) -> Items:
    """Yield the rows of all splits: an image column, and ``objects`` with ``bbox`` and ``category`` (names or a class
    label). Sizes are taken from the columns width and height, else from the picture itself."""
    told: dict[str, None] = {}
    named = True
    for split, table in _open(folder.options.path).items():
        image, box, category = _columns(table, folder.options.path)
        classes = _classes(table.features["objects"], category)
        named = named and classes is not None
        told |= dict.fromkeys(classes or ())
        for number, row in enumerate(table.remove_columns([image])):
            objects = row["objects"] or {}
            # A list of dicts and a dict of lists say the same; which one arrives depends on the version that wrote it.
            if isinstance(objects, list):
                objects = {key: [o.get(key) for o in objects] for key in (box, category)}
            pairs = zip_longest(objects.get(box) or (), objects.get(category) or ())  # one without the other is bad
            things = [
                Thing(id=k, name=_name(label, classes), row=f"object {k + 1}",
                      box=list(xyxy) if folder.options.boxes == "xyxy" and xyxy else corners(xyxy))
                for k, (xyxy, label) in enumerate(pairs)
            ]  # fmt: skip
            size = {k: row.get(k) for k in ("width", "height")} if row.get("width") and row.get("height") else {}
            yield Annotated(file=f"{split}/{number:09d}", **size, things=things, split=split)
    if named:
        yield Vocabulary(tuple(told))


class TablePictures:
    """Pictures stored inside of the tables; a name is "split/row"."""

    root = None

    def __init__(self, path: str) -> None:
        self._tables, self._folder = _open(path), Path(path).resolve()
        self._column = {split: _columns(table, path)[0] for split, table in self._tables.items()}

    def require(self, file: str) -> None:
        """Refuse: there is no file to link to."""
        raise PictureFault("picture inside of a table", file)

    def size(self, file: str) -> Size:
        """Return (width, height) as shown, from the header alone."""
        return size_of(io.BytesIO(self.read(file)), file)

    def read(self, file: str) -> bytes:
        """Return the encoded picture; the table may name a file in its folder instead of holding it."""
        split, _, number = file.rpartition("/")
        stored = self._tables[split][int(number)][self._column[split]] or {}
        if stored.get("bytes"):
            return stored["bytes"]
        path = (self._folder / (stored.get("path") or "")).resolve()
        if not path.is_relative_to(self._folder):
            raise PictureFault("path leaves the folder", file)
        try:
            return path.read_bytes()
        except OSError:
            raise PictureFault("missing picture", file) from None


@lru_cache(maxsize=2)
def _open(path: str) -> dict[str, Any]:
    """Return the tables by split, memory-mapped, pictures left encoded."""
    import datasets

    path = one_path(path)  # the library tells tables apart by it
    try:
        saved = any((Path(path) / name).is_file() for name in ("dataset_dict.json", "state.json"))
        opened = datasets.load_from_disk(path) if saved else datasets.load_dataset(path)
    except Exception as problem:  # the library raises errors of a dozen kinds for what it cannot find or read
        raise SourceError(
            f"{path} cannot be read as a dataset", why=str(problem).strip().splitlines()[0] or type(problem).__name__,
            fix="folder.path is a folder written by save_to_disk, one of Parquet files, or the name of a dataset",
        ) from problem  # fmt: skip
    tables = opened if isinstance(opened, dict) else {str(opened.split or "train"): opened}
    return {
        str(split): table.cast_column(name, datasets.Image(decode=False)) if (name := _image(table)) else table
        for split, table in tables.items()
    }


def _image(table: Any) -> str | None:
    import datasets

    return next((name for name, kind in table.features.items() if isinstance(kind, datasets.Image)), None)


def _columns(table: Any, path: str) -> tuple[str, str, str]:
    image, features = _image(table), table.features
    inside = _inside(features.get("objects"))
    box, category = (next((name for name in names if name in inside), None) for names in (_BOX, _CATEGORY))
    if image is None or box is None or category is None:
        raise SourceError(
            f"{path} is no object detection dataset", why=f"its features are {features}",
            fix="it needs an image column and objects with bbox and category, as in the datasets guide",
        )  # fmt: skip
    return image, box, category


def _inside(objects: Any) -> dict[str, Any]:
    """Return the features of one object, whether objects are a list of dicts or a dict of lists."""
    inner = getattr(objects, "feature", objects)
    inner = inner[0] if isinstance(inner, list) and inner else inner
    return inner if isinstance(inner, dict) else {}


def _classes(objects: Any, category: str) -> list[str] | None:
    kind = _inside(objects)[category]
    kind = kind[0] if isinstance(kind, list) and kind else getattr(kind, "feature", kind)
    return getattr(kind, "names", None)


def _name(label: Any, classes: list[str] | None) -> str | None:
    if isinstance(label, str):
        return label
    known = classes is not None and isinstance(label, int) and 0 <= label < len(classes)
    return classes[label] if known else None


def _digest(folder: Folder) -> str:
    prints = [f"{split}:{table._fingerprint}" for split, table in _open(folder.options.path).items()]
    return hashlib.sha256("\n".join(prints).encode()).hexdigest()


FORMAT = Format(
    read=read, pictures=lambda folder: TablePictures(folder.options.path), digest=_digest, own_splits=True,
    expects="what save_to_disk wrote (dataset_info.json, *.arrow), or the name of a dataset",
    signs=(("dataset_dict.json",), ("state.json", "*.arrow")), uses=("boxes",),
)  # fmt: skip
