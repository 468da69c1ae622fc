"""Checkpoints of a training: written aside, named when whole, the newest few kept."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from accelerate import Accelerator

from lynx_moe.training.whole import aside, put_in_place, saving


def save_whole(final: Path, write: Callable[[Path], None], accelerator: Accelerator) -> None:
    """Calls `write` with a folder beside `final`; what it left in `<folder>/<final.name>` becomes `final` when whole.

    Every process calls this; the main one makes, renames and removes.

    Raises:
        CheckpointError: writing failed, for example because the disk is full. Earlier checkpoints stay.
    """
    temporary = aside(final)
    main = accelerator.is_main_process
    with saving(final):
        if main:
            remove(temporary)
        accelerator.wait_for_everyone()
        try:
            write(temporary)
            accelerator.wait_for_everyone()
            if main:
                put_in_place(temporary / final.name, final)
        finally:
            if main:
                remove(temporary)


def keep_newest(folder: Path, count: int) -> None:
    """Removes all checkpoints in `folder` but the `count` newest."""
    newest_first = sorted(folder.glob("checkpoint-*"), key=lambda p: -int(p.name.rpartition("-")[2]))
    for old in newest_first[count:]:
        remove(old)


def remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
