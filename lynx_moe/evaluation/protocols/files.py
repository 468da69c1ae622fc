"""A benchmark's own files: read row by row, pictures opened when asked for, nothing outside of the folder."""

from __future__ import annotations

import csv
import io
import json
import math
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import ijson
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from PIL import Image

from lynx_moe.data import Record
from lynx_moe.errors import ConfigError, RecordError, nearest
from lynx_moe.evaluation.protocols.base import Item, Protocol
from synth.sources.fault import PictureFault
from synth.sources.pictures import Size, as_shown, locate, size_of

Load = Callable[[], Image.Image]
# A row of a table must fit; MMBench's hold a picture in base64.
BLOCK = 1 << 26


def setting(default: object, help: str):
    """A field of a protocol with one sentence about it, which `docs/protocols.md` shows."""
    return field(default=default, metadata={"help": help})


class Files:
    """Reads below `root`; what cannot be used is counted in `faults` by kind."""

    def __init__(self, root: Path, faults: Counter[str]):
        self.root = root
        self.faults = faults

    def find(self, *names: str) -> Path:
        """The first of these files that is there.

        Raises:
            RecordError: none is.
        """
        found = next((path for name in names if (path := self.root / name).is_file()), None)
        if found is None:
            raise RecordError(
                f"{self.root} has no {' or '.join(names)}",
                why="the benchmark is read from the files that its authors give out",
                fix="download it there, or give the folder it lies in",
            )
        return found

    def document(self, path: Path) -> Any:
        """A whole JSON file.

        Raises:
            RecordError: it is none.
        """
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as problem:
            raise _broken(path, problem) from None

    def rows(self, path: Path, prefix: str = "item") -> Iterator[dict]:
        """Rows of a .jsonl, .json (a list, or lines), .csv, .tsv or .parquet file, one at a time; a row that is none
        is counted and left out.

        Args:
            prefix: where in a JSON document the list is, as ijson says it ("data.item").

        Raises:
            RecordError: the file is not what its name says.
        """
        read = {".csv": _table, ".tsv": _table, ".parquet": _parquet, ".jsonl": _lines}.get(path.suffix, _json)
        try:
            for row in read(path, prefix):
                if isinstance(row, dict):
                    yield row
                else:
                    self.faults["unreadable row"] += 1
        except (OSError, ValueError, RecursionError, pa.ArrowException, ijson.JSONError) as problem:
            raise _broken(path, problem) from None

    def keyed_rows(self, path: Path) -> Iterator[tuple[str, dict]]:
        """Key and row of a JSON file that is one object of objects; a row that is none is counted and left out.

        Raises:
            RecordError: it is not one object.
        """
        rows = self.document(path)
        if not isinstance(rows, dict):
            raise _broken(path, ValueError("it is not one JSON object"))
        for key, row in rows.items():
            if isinstance(row, dict):
                yield key, row
            else:
                self.faults["unreadable row"] += 1

    def take(self, row: dict, **kinds: type) -> tuple | None:
        """The row's values of these names in this order; None, and counted, where one is missing or of another kind."""
        values = tuple(row.get(name) for name in kinds)
        for (name, kind), value in zip(kinds.items(), values, strict=True):
            if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
                self.faults[f"row without a usable {name}"] += 1
                return None
        return values

    def picture(self, *names: str) -> Load | None:
        """Opens the first of these files that is there, upright and in RGB; None, and counted, where none is."""
        path = self._located(*names)
        return None if path is None else _opener(path.name, path.read_bytes)

    def sized_picture(self, *names: str) -> tuple[Load, Size] | None:
        """Like `picture`, with (width, height) as the file's header tells them."""
        path = self._located(*names)
        if path is None:
            return None
        try:
            return _opener(path.name, path.read_bytes), size_of(path, path.name)
        except PictureFault as problem:
            self.faults[problem.fault.reason] += 1
            return None

    def held_picture(self, data: bytes | None, name: str) -> tuple[Load, Size] | None:
        """A picture that lies inside of a table."""
        if not data:
            self.faults["missing picture"] += 1
            return None
        try:
            return _opener(name, lambda: data), size_of(io.BytesIO(data), name)
        except PictureFault as problem:
            self.faults[problem.fault.reason] += 1
            return None

    def _located(self, *names: str) -> Path | None:
        reason = "missing picture"
        for name in names:
            try:
                return locate(self.root, name)
            except PictureFault as problem:
                reason = problem.fault.reason
        self.faults[reason] += 1
        return None


@dataclass(kw_only=True)
class FileProtocol(Protocol):
    """A protocol whose items come from files in `folder`, each id once.

    Attributes:
        files: what lies in the folder, for the docs.
        oracle: the published code that the numbers are held against in the tests.
        needs_probability: whether scores must be probabilities for the numbers to mean anything.
    """

    files: ClassVar[str]
    oracle: ClassVar[str]
    # None of them has places in its truth, so that any change of the picture leaves it true or is its own business.
    boxes_in: ClassVar[tuple[str, ...]] = ()
    needs_probability: ClassVar[bool] = False

    folder: Path = field(metadata={"help": "folder with the benchmark's own files"})
    faults: Counter[str] = field(default_factory=Counter, init=False, repr=False)

    def __post_init__(self) -> None:
        self.folder = Path(self.folder)

    def items(self) -> Iterator[Item]:
        """All items in the files' own order; what cannot be used is counted in `faults` and left out.

        Raises:
            RecordError: a file is missing or not in the benchmark's format; or no item can be used.
        """
        self.faults.clear()
        seen: set[str] = set()
        for item in self._items(Files(self.folder, self.faults)):
            if item.id in seen:
                self.faults["duplicate id"] += 1
                continue
            seen.add(item.id)
            yield item
        if not seen:
            told = ", ".join(f"{count} x {kind}" for kind, count in self.faults.items())
            raise RecordError(
                f"{self.name} finds nothing to ask in {self.folder}",
                why=told or "the split is empty", fix="check the folder, the split and the pictures",
            )  # fmt: skip

    @abstractmethod
    def _items(self, files: Files) -> Iterator[Item]:
        """Items in file order; ids may repeat."""

    def _among(self, setting: str, allowed: Iterable[str]) -> None:
        """Raises ConfigError where `setting` has another value."""
        value, allowed = getattr(self, setting), list(allowed)
        if value not in allowed:
            raise ConfigError(
                f"{self.name} has no {setting} {value!r}",
                why=f"it is one of {', '.join(allowed)}", fix=f"did you mean {nearest(value, allowed)[0]!r}?",
            )  # fmt: skip

    def _record(self, key: str, question: str, answer: str, image_id: str, shown: tuple[Load, Size] | None) -> Record:
        """An understanding question, about a picture or about none."""
        load, size = shown or (None, None)
        return Record(
            id=key, question=question, answer=answer, kind="understanding", task=self.name,
            image_id=image_id, size=size, load=load,
        )  # fmt: skip


def plain(value: Any) -> str:
    """A cell of a table as text; what pandas wrote for nothing ("nan", "None") is nothing.

    >>> plain(" a hint "), plain("nan"), plain(float("nan"))
    ('a hint', '', '')
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    text = str(value).strip()
    return "" if text.lower() in ("nan", "none") else text


def _opener(name: str, read: Callable[[], bytes]) -> Load:
    def load() -> Image.Image:
        try:
            return as_shown(read(), name)
        except (PictureFault, OSError) as problem:
            reason = problem.fault.reason if isinstance(problem, PictureFault) else str(problem)
            raise RecordError(f"{name}: {reason}", why="its bytes are no whole picture", fix="get it again") from None

    return load


def _lines(path: Path, prefix: str) -> Iterator[Any]:
    with path.open(encoding="utf-8-sig") as file:
        for line in filter(str.strip, file):
            try:
                yield json.loads(line)
            except (ValueError, RecursionError):
                yield None


def _json(path: Path, prefix: str) -> Iterator[Any]:
    with path.open("rb") as file:
        start = file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
        # POPE's files are lines, and called .json.
        if start == b"{" and prefix == "item":
            yield from _lines(path, prefix)
            return
        file.seek(0)
        yield from ijson.items(file, prefix, use_float=True)


def _table(path: Path, prefix: str) -> Iterator[Any]:
    tab = "\t" if path.suffix == ".tsv" else ","
    with path.open(encoding="utf-8-sig", newline="") as file:
        names = next(csv.reader(file, delimiter=tab), [])
    bad: list[None] = []

    def skip(_: Any) -> str:
        bad.append(None)
        return "skip"

    reader = pa.csv.open_csv(
        path,
        read_options=pa.csv.ReadOptions(block_size=BLOCK),
        parse_options=pa.csv.ParseOptions(delimiter=tab, newlines_in_values=True, invalid_row_handler=skip),
        # As text: a column of numbers must not decide how "A" or "nan" in it are read.
        convert_options=pa.csv.ConvertOptions(column_types={name: pa.string() for name in names}),
    )
    for batch in reader:
        yield from batch.to_pylist()
    yield from bad


def _parquet(path: Path, prefix: str) -> Iterator[Any]:
    with pa.parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=64):
            yield from batch.to_pylist()


def _broken(path: Path, problem: Exception) -> RecordError:
    return RecordError(
        f"{path} cannot be read as the benchmark's file",
        why=str(problem).splitlines()[0][:200],
        fix="download it again",
    )
