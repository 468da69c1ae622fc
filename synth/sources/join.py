"""Rows put aside on disk by key, and read back by key: how a file that keeps pictures and boxes apart is joined."""

from __future__ import annotations

import json
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path


class Join:
    """Named tables of rows that may be far larger than memory; the file is gone when the ``with`` block ends.

    Keys are whole numbers or words, and 1 is not "1".
    """

    def __init__(self, work: Path) -> None:
        self._folder = tempfile.TemporaryDirectory(dir=work, prefix="join-")
        self._connection = sqlite3.connect(Path(self._folder.name) / "rows.sqlite", isolation_level=None)
        for pragma in ("journal_mode=OFF", "synchronous=OFF"):  # a scratch file: after a crash it is made anew
            self._connection.execute(f"PRAGMA {pragma}")
        self._connection.execute("CREATE TABLE rows (name TEXT, key TEXT, data TEXT)")
        self._sorted = False

    def __enter__(self) -> Join:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()
        self._folder.cleanup()

    def fill(self, name: str, rows: Iterable[tuple[int | str, dict]]) -> None:
        """Put (key, row) pairs into the table ``name``, in their order."""
        if self._sorted:
            self._connection.execute("DROP INDEX by_key")
            self._sorted = False
        self._connection.execute("BEGIN")
        packed = ((name, json.dumps(key), json.dumps(row)) for key, row in rows)
        self._connection.executemany("INSERT INTO rows VALUES (?, ?, ?)", packed)
        self._connection.execute("COMMIT")

    def all(self, name: str) -> Iterator[tuple[int | str, dict]]:
        """Yield the (key, row) pairs of a table in the order in which they came."""
        for key, data in self._ask("SELECT key, data FROM rows WHERE name = ? ORDER BY rowid", name):
            yield json.loads(key), json.loads(data)

    def keys(self, name: str) -> Iterator[int | str]:
        """Yield the keys of a table, each once, sorted."""
        return (json.loads(k) for (k,) in self._ask("SELECT DISTINCT key FROM rows WHERE name = ? ORDER BY key", name))

    def of(self, name: str, key: int | str) -> list[dict]:
        """Return the rows of a table with that key, in the order in which they came."""
        query = "SELECT data FROM rows WHERE name = ? AND key = ? ORDER BY rowid"
        return [json.loads(data) for (data,) in self._ask(query, name, json.dumps(key))]

    def twice(self, name: str) -> list[int | str]:
        """Return a key that two rows of the table have, if there is one."""
        query = "SELECT key FROM rows WHERE name = ? GROUP BY key HAVING count(*) > 1 LIMIT 1"
        return [json.loads(key) for (key,) in self._ask(query, name)]

    def strays(self, name: str, of: str) -> Iterator[dict]:
        """Yield the rows of a table whose key no row of the table ``of`` has."""
        query = (
            "SELECT data FROM rows AS r WHERE name = ? AND NOT EXISTS"
            " (SELECT 1 FROM rows WHERE name = ? AND key = r.key) ORDER BY rowid"
        )
        return (json.loads(data) for (data,) in self._ask(query, name, of))

    def _ask(self, query: str, *values: str) -> sqlite3.Cursor:
        if not self._sorted:
            self._connection.execute("CREATE INDEX by_key ON rows (name, key)")
            self._sorted = True
        return self._connection.execute(query, values)
