"""Errors of synth: each says what happened, why, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


class SynthError(Exception):
    """Every error that synth raises on purpose; ``str`` shows what, why and fix on three lines."""

    def __init__(self, message: str, *, why: str, fix: str) -> None:
        super().__init__(message)
        self.message, self.why, self.fix = message, why, fix

    def __str__(self) -> str:
        return f"{self.message}\n  why: {self.why}\n  fix: {self.fix}"

    def __reduce__(self):  # keyword-only arguments do not survive the default pickling on the way out of a worker
        return _rebuild, (type(self), self.message, self.why, self.fix)


class SettingsError(SynthError, ValueError):
    """A setting is unknown, has the wrong type or contradicts another."""


class SourceError(SynthError, ValueError):
    """A source as a whole cannot be read; single bad rows are quarantined instead."""


class RecordError(SynthError, ValueError):
    """A task made a record which breaks the record format."""


class EngineError(SynthError, RuntimeError):
    """The server that an engine asks cannot be used at all; single bad answers are dropped and counted instead."""


class OutputError(SynthError, OSError):
    """The output folder cannot be written."""


class OutputExistsError(SynthError, FileExistsError):
    """The output folder holds something else, and nobody said to overwrite it."""


def _rebuild(kind: type[SynthError], message: str, why: str, fix: str) -> SynthError:
    return kind(message, why=why, fix=fix)


@contextmanager
def disk_trouble(path: Path) -> Iterator[None]:
    """Turn an ``OSError`` while writing ``path`` into an ``OutputError`` that says what was kept and what to do."""
    try:
        yield
    except OutputError:
        raise
    except OSError as problem:
        raise OutputError(
            f"cannot write {path}: {problem.strerror or problem}",
            why="the disk is full, read-only or gone; finished shards are kept",
            fix="make room and run the same command again: it goes on after the last finished shard",
        ) from problem


def refuse_unused(settings: object, kind: str, users: dict[str, tuple[str, ...]]) -> None:
    """Raise ``SettingsError`` for a group of options that is set and that the chosen source or engine does not use.

    ``kind`` is "source" or "engine", ``users`` who uses each group of options.
    """
    chosen = getattr(settings, kind)
    for group, names in users.items():
        given = getattr(settings, group)
        if chosen not in names and given != type(given)():
            raise SettingsError(
                f"{kind}={chosen} has no options {group}.*", why="one is set, and would do nothing",
                fix=f"leave it out, or choose one that has them: {', '.join(names)}",
            )  # fmt: skip


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the known names most like ``name`` as text for a fix line; all of them when none is alike."""
    names = sorted(known)
    return ", ".join(difflib.get_close_matches(name, names, n=3, cutoff=0.5) or names)
