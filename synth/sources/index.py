"""An index on disk of annotated pictures: built once by streaming, then read at random by every worker.

A million pictures need no more memory than ten thousand: rows go to SQLite as they are read, and it is SQLite that
sorts them by file name.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from synth.errors import OutputError, disk_trouble
from synth.sources.annotation import Annotated, Outline, Vocabulary, can_be_said, check, pack, unpack, whole_size
from synth.sources.fault import Fault, PictureFault
from synth.sources.pictures import as_shown

_SAME_SPLIT = {"valid": "val", "validation": "val", "dev": "val"}
_SCHEMA = """
CREATE TABLE pictures (file TEXT, split TEXT, own INTEGER, width INTEGER, height INTEGER, data TEXT, faults TEXT,
    outlines TEXT);
CREATE TABLE faults (reason TEXT, row TEXT);
CREATE TABLE names (name TEXT PRIMARY KEY);
CREATE TABLE places (place INTEGER PRIMARY KEY, split TEXT, n INTEGER, picture INTEGER);
"""
# Each of two rows about one picture may lack what the other has, and no answer would be certain.
_TWICE = """
CREATE TABLE twice AS SELECT file, split FROM pictures GROUP BY file, split HAVING count(*) > 1;
INSERT INTO faults SELECT 'picture listed twice', file FROM twice ORDER BY file, split;
DELETE FROM pictures WHERE EXISTS
    (SELECT 1 FROM twice WHERE twice.file = pictures.file AND twice.split = pictures.split);
DROP TABLE twice;
"""
_ORDER = """
INSERT INTO places SELECT row_number() OVER (ORDER BY file, rowid) - 1, split,
    row_number() OVER (PARTITION BY split ORDER BY file, rowid) - 1, rowid FROM pictures;
CREATE UNIQUE INDEX by_split ON places (split, n);
"""


def split_of(file_name: str, val_fraction: float) -> str:
    """Return "val" for a share of ``val_fraction`` of all file names, else "train"; for ever the same for a name."""
    draw = int.from_bytes(hashlib.sha256(file_name.encode()).digest()[:8], "big") / 2**64
    return "val" if draw < val_fraction else "train"


def look_alikes(files: Iterable[str], read: Callable[[str], bytes]) -> Iterator[tuple[str, str]]:
    """Yield (file, name of its group) of every picture that looks like one with a smaller name.

    ``split_of`` of the group instead of the file keeps them together. What cannot be read looks like nothing.
    """
    from synth.quality.hashes import picture_hashes
    from synth.quality.near import groups

    def hashes() -> Iterator[tuple[str, tuple[int, int]]]:
        for file in files:
            try:
                yield file, picture_hashes(as_shown(read(file), file))
            except PictureFault:
                continue

    return ((file, group) for file, group in groups(hashes()).items() if file != group)


def one_name(split: str) -> str:
    """Return the split's name as we say it: "valid", "validation" and "dev" are "val"."""
    return _SAME_SPLIT.get(split, split)


def build(
    path: Path, items: Iterable[Annotated | Fault | Vocabulary], val_fraction: float,
    read: Callable[[str], bytes] | None = None,
) -> None:  # fmt: skip
    """Write the index of what a reader yields to ``path``; it appears whole or not at all.

    With ``read``, which returns a picture's bytes, pictures that look alike are put into train or val together.
    """
    with disk_trouble(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with disk_trouble(path):
            aside.unlink(missing_ok=True)
            connection = sqlite3.connect(aside, isolation_level=None)
        try:
            for pragma in ("journal_mode=OFF", "synchronous=OFF"):  # written aside: a torn file is never read
                connection.execute(f"PRAGMA {pragma}")
            connection.executescript(_SCHEMA)
            connection.execute("BEGIN")
            _fill(connection, items, val_fraction)
            if read is not None:
                files = connection.execute("SELECT DISTINCT file FROM pictures WHERE NOT own ORDER BY file").fetchall()
                for file, group in look_alikes((file for (file,) in files), read):
                    split = split_of(group, val_fraction)
                    connection.execute("UPDATE pictures SET split = ? WHERE file = ? AND NOT own", (split, file))
            connection.execute("COMMIT")
            connection.executescript(_TWICE)
            connection.executescript(_ORDER)
        finally:
            connection.close()
        with disk_trouble(path):
            os.replace(aside, path)
    except sqlite3.Error as problem:
        raise OutputError(
            f"cannot write {path}: {problem}", why="the disk is full or failing; the index needs about the room of the "
            "annotations, twice while it is made", fix="make room and run the same command again",
        ) from problem  # fmt: skip
    finally:
        aside.unlink(missing_ok=True)


def _fill(connection: sqlite3.Connection, items: Iterable, val_fraction: float) -> None:
    met: set[str] = set()
    for item in items:
        if isinstance(item, Vocabulary):
            met.update(name for name in item.names if is_text(name) and can_be_said(name))
            continue
        row = _row(item, val_fraction) if isinstance(item, Annotated) else item
        if isinstance(row, Fault):
            connection.execute("INSERT INTO faults VALUES (?, ?)", (as_text(row.reason), as_text(row.row)))
        else:
            connection.execute("INSERT INTO pictures VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row[0])
            met |= row[1]
    connection.executemany("INSERT INTO names VALUES (?)", ((name,) for name in sorted(met)))


def _row(picture: Annotated, val_fraction: float) -> tuple[tuple, set[str]] | Fault:
    """Return the picture as a row and the names for the vocabulary; it is checked now if its size is known."""
    if not whole_size(picture):
        return Fault("picture size is not two whole numbers", str(picture.file))
    faults: list[Fault] = []
    if picture.width is not None:
        picture, faults = check(picture, picture.width, picture.height)
    data, outlines = pack(picture)
    if not all(map(is_text, (picture.file, data, outlines or ""))):
        return Fault("text that is not Unicode", picture.file)
    split = one_name(picture.split) if picture.split else split_of(picture.file, val_fraction)
    told = json.dumps([[as_text(fault.reason), as_text(fault.row)] for fault in faults]) if faults else None
    said = (t.name for t in picture.things if t.name and not t.crowd and can_be_said(t.name))
    names = set(said) if picture.absent is None else set()
    return (picture.file, split, bool(picture.split), picture.width, picture.height, data, told, outlines), names


def is_text(text: str) -> bool:
    """Whether it can be written as UTF-8: file names and JSON may hold halves of characters, which cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def as_text(text: str) -> str:
    """Return the text with what UTF-8 cannot hold spelled out."""
    return text.encode(errors="backslashreplace").decode()


class Index:
    """An index opened for reading; ``split`` None is all of it. Every process opens its own."""

    def __init__(self, path: Path, split: str | None) -> None:
        # Immutable: nobody writes a finished index, so no locks are needed, not even on a read-only disk.
        self._connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True)
        where = "places.place = ?" if split is None else "places.n = ? AND places.split = ?"
        self._from = f"FROM places JOIN pictures ON pictures.rowid = places.picture WHERE {where}"
        self._split = () if split is None else (split,)
        count = "SELECT count(*) FROM places" + ("" if split is None else " WHERE split = ?")
        self._length = self._connection.execute(count, self._split).fetchone()[0]

    def __len__(self) -> int:
        return self._length

    def row(self, place: int) -> tuple[Annotated, list[Fault]]:
        """Return the picture at ``place`` and the faults found in it; without a size it is still unchecked."""
        query = f"SELECT file, width, height, data, faults {self._from}"
        file, width, height, data, faults = self._connection.execute(query, (place, *self._split)).fetchone()
        return unpack(file, width, height, data), [Fault(*fault) for fault in json.loads(faults)] if faults else []

    def outlines(self, place: int) -> dict[int, Outline]:
        """Return the outlines of the things of the picture at ``place``, by their ids."""
        (text,) = self._connection.execute(f"SELECT outlines {self._from}", (place, *self._split)).fetchone()
        return {int(k): outline for k, outline in json.loads(text).items()} if text else {}

    def names(self) -> tuple[str, ...]:
        """Return the vocabulary, sorted."""
        return tuple(name for (name,) in self._connection.execute("SELECT name FROM names ORDER BY name"))

    def splits(self) -> list[str]:
        """Return the names of the splits that have pictures, sorted."""
        return [split for (split,) in self._connection.execute("SELECT DISTINCT split FROM places ORDER BY split")]

    def divided(self) -> bool:
        """Whether any picture was put into train or val by its file name."""
        return self._connection.execute("SELECT EXISTS (SELECT 1 FROM pictures WHERE NOT own)").fetchone()[0] == 1

    def faults(self) -> Iterator[Fault]:
        """Yield the faults that lie outside of any picture."""
        return (Fault(*row) for row in self._connection.execute("SELECT reason, row FROM faults ORDER BY rowid"))
