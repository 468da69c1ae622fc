"""Errors that say what happened, why, and what to do about it.

Every error of the library is a `LynxError`; each kind also inherits the builtin it stands for, so `except ValueError`
written by somebody who never heard of us still works.
"""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable

# What the system says when there is no room: a full disk, a quota, a limit on the size of files.
NO_ROOM = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota is used up",
    errno.EFBIG: "files may not grow as large",
}


class LynxError(Exception):
    """A mistake that the reader can act on.

    Args:
        message: what happened, with the value that caused it.
        why: the reason, in one sentence.
        fix: one action that helps.

    >>> print(LynxError("no shard 3", why="the folder is unfinished", fix="run synth again"))
    no shard 3
      why: the folder is unfinished
      fix: run synth again
    """

    def __init__(self, message: str, *, why: str, fix: str):
        # A single positional argument: the builtins we double-inherit (OSError above all) give meaning to a second one.
        super().__init__(message)
        self.message = message
        self.why = why
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.message}\n  why: {self.why}\n  fix: {self.fix}"

    def __reduce__(self):
        # Errors cross process boundaries (data workers, launchers); the keyword-only arguments must travel with them.
        return _rebuild, (type(self), self.message, self.why, self.fix)


def _rebuild(kind: type[LynxError], message: str, why: str, fix: str) -> LynxError:
    return kind(message, why=why, fix=fix)


class ConfigError(LynxError, ValueError):
    """A setting has a name or a value that nothing can honour."""


class FamilyError(LynxError, ValueError):
    """A model's structure does not hold what was asked for."""


class RecordError(LynxError, ValueError):
    """Records on disk are unfinished or malformed."""


class DialectError(LynxError, ValueError):
    """A box cannot be written in a dialect."""


class CheckpointError(LynxError, RuntimeError):
    """A checkpoint, or an adapter's state, cannot be used as asked."""


class DivergedError(LynxError, FloatingPointError):
    """Numbers of a training are not finite any more."""


class NotFiniteError(CheckpointError, ValueError):
    """An adapter's weights hold NaN or infinity."""


class OutputExistsError(LynxError, FileExistsError):
    """An output folder already holds a finished result."""


class InUseError(LynxError, BlockingIOError):
    """Another process is at work in an output folder."""


class ExportError(LynxError, RuntimeError):
    """A model cannot be exported by the route that was asked for."""


def nearest(name: object, known: Iterable[object], limit: int = 3) -> list[str]:
    """Up to `limit` of the `known` names that look most like `name`; all of them when nothing does and they are few.

    >>> nearest("addtive", ["additive", "convex", "token"])
    ['additive']
    """
    names = [str(k) for k in known]
    close = difflib.get_close_matches(str(name), names, n=limit, cutoff=0.5)
    return close or (names if len(names) <= 8 else names[:limit])


def no_room(problem: BaseException) -> str | None:
    """In words, if `problem` is the system's that there is no room; safetensors and torch pass it on as text."""
    named = {f"os error {number}": text for number, text in NO_ROOM.items()} | {"space left": NO_ROOM[errno.ENOSPC]}
    by_text = next((text for sign, text in named.items() if sign in str(problem)), None)
    return NO_ROOM.get(getattr(problem, "errno", None), by_text)
