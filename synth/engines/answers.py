"""Answers of a server, kept on disk: what was asked once is never asked again, and gives the same bytes again."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from synth.errors import OutputError, disk_trouble

FILE = "answers.sqlite"
_PATIENCE = 60.0  # seconds to wait for another worker's write


class Answers:
    """A table of answers by the digest of their request; several processes may share the file.

    Without a folder nothing is kept. Every answer is on its way to the disk when ``put`` returns, so a killed run
    loses only what it had not been told yet. Raises ``OutputError`` on disk trouble.
    """

    def __init__(self, place: Path | None) -> None:
        self._table = None
        if place is None:
            return
        with disk_trouble(place):
            place.mkdir(parents=True, exist_ok=True)
        self._path = place / FILE
        with self._trouble():
            # Used from the engine's one thread, closed from the caller's.
            self._table = sqlite3.connect(self._path, timeout=_PATIENCE, isolation_level=None, check_same_thread=False)
            # A lost machine may cost the last answers, never a killed process: those writes belong to the system.
            self._table.execute("PRAGMA synchronous=OFF")
            self._table.execute("CREATE TABLE IF NOT EXISTS answers (request TEXT PRIMARY KEY, text TEXT, fault TEXT)")

    def get(self, request: str) -> tuple[str, str] | None:
        """Return (text, fault) of a request's digest, one of them empty, or None when it was not answered yet."""
        if self._table is None:
            return None
        with self._trouble():
            found = self._table.execute("SELECT text, fault FROM answers WHERE request = ?", (request,)).fetchone()
        return found

    def put(self, request: str, text: str, fault: str) -> None:
        """Keep an answer; the first one stays."""
        if self._table is not None:
            with self._trouble():
                self._table.execute("INSERT OR IGNORE INTO answers VALUES (?, ?, ?)", (request, text, fault))

    def close(self) -> None:
        """Let go of the file."""
        if self._table is not None:
            self._table.close()

    @contextmanager
    def _trouble(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as problem:
            raise OutputError(
                f"cannot use the kept answers in {self._path}: {problem}",
                why="the disk is full, read-only or gone, or the file is no table of answers",
                fix="make room, or name another folder with llm.cache=...; llm.cache=false keeps none",
            ) from problem
