"""Files and folders that are either wholly there or not at all: written aside, flushed, then renamed into place."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from lynx_moe.errors import CheckpointError, no_room

ASIDE = ".writing-"
OLD = f"{ASIDE}old-"


def aside(final: Path) -> Path:
    """Where `final` is written before it takes its name: beside it, so that the rename stays on one file system."""
    return final.with_name(ASIDE + final.name)


@contextmanager
def whole_folder(final: Path) -> Iterator[Path]:
    """Yields a fresh folder that becomes `final` when the block ends well, and is removed when it does not.

    What `final` held before stays whole until the new content is complete and on disk.

    Raises:
        CheckpointError: writing failed (a full disk, say).
    """
    temporary = aside(final)
    shutil.rmtree(temporary, ignore_errors=True)
    with saving(final):
        try:
            temporary.mkdir(parents=True)
            yield temporary
            put_in_place(temporary, final)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def put_in_place(temporary: Path, final: Path) -> None:
    """Renames a complete folder to its final name, after its bytes have reached the disk."""
    for path in [p for p in temporary.rglob("*") if p.is_file()]:
        # Some file systems report a full disk only here.
        with open(path, "rb") as file:
            os.fsync(file.fileno())
    old = final.with_name(OLD + final.name)
    if final.exists():
        shutil.rmtree(old, ignore_errors=True)
        os.replace(final, old)
    try:
        os.replace(temporary, final)
    except OSError:
        if old.exists():
            os.replace(old, final)
        raise
    sync_names(final.parent)
    shutil.rmtree(old, ignore_errors=True)


def remove_whole(folder: Path) -> None:
    """Removes a folder so that nobody ever finds half of it under its name."""
    gone = aside(folder)
    shutil.rmtree(gone, ignore_errors=True)
    try:
        os.replace(folder, gone)
    except FileNotFoundError:
        return
    shutil.rmtree(gone, ignore_errors=True)


def clear_leftovers(folder: Path) -> None:
    """Removes what processes that were killed were writing in `folder`, or removing from it; nobody may be at it now.

    What was moved away for a new content that never came gets its name back.
    """
    for path in sorted(folder.glob(f"{ASIDE}*")) if folder.is_dir() else ():
        final = path.with_name(path.name.removeprefix(OLD))
        if path.name.startswith(OLD) and not final.exists():
            os.replace(path, final)
        elif path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def sync_names(folder: Path) -> None:
    """Makes a rename in `folder` survive a power cut, where the system can open folders (not on Windows)."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, content: Any) -> None:
    """Writes JSON whole or not at all.

    Raises:
        CheckpointError: writing failed.
    """
    text = content if isinstance(content, str) else json.dumps(content, indent=2) + "\n"
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all.

    Raises:
        CheckpointError: writing failed.
    """
    with saving(path):
        temporary = aside(path)
        try:
            with open(temporary, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            sync_names(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def saving(what: Path) -> Iterator[None]:
    """Turns the ways in which torch, safetensors and the system report a failed write into one CheckpointError."""
    try:
        yield
    except CheckpointError:
        raise
    except (OSError, RuntimeError, SafetensorError) as problem:
        raise CheckpointError(
            f"could not save {what}: {problem}",
            why=no_room(problem) or "writing failed; nothing half-written was left under this name",
            fix=f"{'make room' if no_room(problem) else 'check the folder'}; what was saved before is whole, and the "
            "same command goes on from there",
        ) from problem
