"""The folder of an export: one writer at a time, whole under its name or not there at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from lynx_moe.errors import ExportError, InUseError, LynxError, OutputExistsError, no_room
from lynx_moe.export.cost import readable
from lynx_moe.export.fresh import MANIFEST
from lynx_moe.whole import put_in_place


@contextmanager
def claimed(out_dir: Path, overwrite: bool) -> Iterator[Path]:
    """Yields an empty folder beside `out_dir` to write into, which is removed however the block ends.

    `give_name` inside the block makes it `out_dir`. Folders that did not exist before are not left behind by a failure.

    Raises:
        OutputExistsError: `out_dir` holds an export and `overwrite` is False, or it holds anything else.
        InUseError: another process is exporting to `out_dir`.
        ExportError: the disk is full, or cannot be written.
    """
    _refuse_existing(out_dir, overwrite)
    missing = [path for path in out_dir.parents if not path.exists()]
    lock = FileLock(out_dir.parent / f".{out_dir.name}.lock")
    try:
        out_dir.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise InUseError(
            f"another process is exporting to {out_dir}",
            why="two exports under one name would replace each other",
            fix="wait for it, end it, or choose another folder",
        ) from None
    except OSError as problem:
        raise _unwritable(out_dir, problem) from problem
    aside = None
    try:
        aside = Path(tempfile.mkdtemp(prefix=f".{out_dir.name}.", dir=out_dir.parent))
        yield aside
    except LynxError:
        raise
    except (OSError, RuntimeError, SafetensorError) as problem:
        # Only what the disk did: any other mistake keeps its own name.
        if no_room(problem) is None:
            raise
        raise _unwritable(out_dir, problem) from problem
    finally:
        if aside is not None:
            shutil.rmtree(aside, ignore_errors=True)
        # While it is held: who opened it in the meantime sees that it has no name any more, and makes a new one.
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()
        for path in missing:
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()


def refuse_full_disk(out_dir: Path, size_bytes: int) -> None:
    """Raises ExportError when weights of this size have no room beside `out_dir`: said before minutes of writing."""
    free = shutil.disk_usage(out_dir.parent).free
    if free < size_bytes:
        raise ExportError(
            f"no room for {out_dir}",
            why=f"the weights take {readable(size_bytes, 'B')}, and {readable(free, 'B')} are free",
            fix="make room, choose a folder on another disk, or ship the adapter alone: route='adapter'",
        )


def give_name(aside: Path, out_dir: Path) -> None:
    """Renames a complete folder, after its bytes have reached the disk; what was there is deleted last."""
    # mkdtemp makes folders private; a finished one has the permissions any new folder would have.
    aside.chmod(0o777 & ~_umask())
    put_in_place(aside, out_dir)


def _refuse_existing(out_dir: Path, overwrite: bool) -> None:
    if not out_dir.exists() or (out_dir.is_dir() and not any(out_dir.iterdir())):
        return
    if not (out_dir / MANIFEST).is_file():
        # Replacing means deleting: only what an export wrote, never somebody's home.
        raise OutputExistsError(
            f"{out_dir} exists", why="it holds files that no export wrote", fix="choose another folder"
        )
    if not overwrite:
        raise OutputExistsError(
            f"{out_dir} exists",
            why="it holds a finished export",
            fix="choose another folder, or pass overwrite=True",
        )


def _unwritable(out_dir: Path, problem: Exception) -> ExportError:
    full = no_room(problem)
    return ExportError(
        f"{out_dir} could not be written: {problem}",
        why=full or "the system refused; nothing half-written was left",
        fix="make room and export again" if full else "check the folder, or choose another",
    )


def _umask() -> int:
    # The only way to read it is to set it.
    mask = os.umask(0)
    os.umask(mask)
    return mask
