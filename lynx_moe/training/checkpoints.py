"""Checkpoints of a training: written aside, sealed, named when whole, checked before use; newest and best are kept."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from accelerate import Accelerator

from lynx_moe.digests import file_sha256
from lynx_moe.errors import CheckpointError
from lynx_moe.whole import aside, put_in_place, remove_whole, saving, write_json

MANIFEST = "manifest.json"
# What the optimiser remembers, by who wrote it: we ourselves, FSDP2, DeepSpeed (one part per process).
PLAIN, BY_NAME, PARTS = "optimizer.safetensors", "optimizer_by_name.safetensors", "global_step*/*_optim_states.pt"


def save_whole(final: Path, write: Callable[[Path], None], accelerator: Accelerator, about: dict | None = None) -> None:
    """Calls `write` with a folder beside `final`; what it left in `<folder>/<final.name>` becomes `final` when whole.

    Every process calls this; the main one makes, seals, renames and removes.

    Args:
        about: what the manifest says beside the files: see `seal`.

    Raises:
        CheckpointError: writing failed, for example because the disk is full. Earlier checkpoints stay.
    """
    temporary = aside(final)
    main = accelerator.is_main_process
    with saving(final):
        if main:
            shutil.rmtree(temporary, ignore_errors=True)
        accelerator.wait_for_everyone()
        try:
            write(temporary)
            accelerator.wait_for_everyone()
            if main:
                seal(temporary / final.name, about or {})
                put_in_place(temporary / final.name, final)
        finally:
            if main:
                shutil.rmtree(temporary, ignore_errors=True)


def seal(folder: Path, about: dict) -> None:
    """Writes, last, the manifest: `about`, size and sha256 of every file, and a sha256 of all that."""
    files = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    write_json(folder / MANIFEST, signed({**about, "files": files}))


def signed(content: dict) -> dict:
    """`content` with the sha256 of itself, so that a changed number in it is noticed too."""
    rest = {name: value for name, value in content.items() if name != "sha256"}
    return rest | {"sha256": hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()}


def read_manifest(folder: Path) -> dict:
    """What `seal` wrote; raises CheckpointError when it is not there or no manifest."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if isinstance(manifest["files"], dict) and manifest["sha256"] == signed(manifest)["sha256"]:
            return manifest
        problem = "it is not what was written"
    except FileNotFoundError:
        problem = "there is none"
    except (ValueError, KeyError, TypeError) as error:
        problem = str(error)
    raise CheckpointError(
        f"{folder} has no readable {MANIFEST}",
        why=f"{problem}; it is written last, so what it is to vouch for may not be whole",
        fix="go on from an earlier checkpoint",
    )


def fault_of(folder: Path) -> str | None:
    """What is wrong with a checkpoint, in words; None when every byte is as it was written."""
    try:
        files = read_manifest(folder)["files"]
    except CheckpointError:
        return f"no readable {MANIFEST}"
    for name, promised in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != promised["bytes"]:
            return f"{name} has {path.stat().st_size} of {promised['bytes']} bytes"
        if file_sha256(path) != promised["sha256"]:
            return f"{name} has other content than was written"
    return None


def refuse_torn(folder: Path) -> None:
    """Raises CheckpointError when not every byte of the checkpoint is as it was written."""
    fault = fault_of(folder)
    if fault:
        raise CheckpointError(
            f"{folder} is torn: {fault}",
            why="something outside of this program changed or lost it after it was written",
            fix="trainer.publish=last trainer.resume=always publishes the last step instead",
        )


def checkpoints_in(folder: Path) -> dict[int, Path]:
    """Step to folder of everything that bears a checkpoint's name, whole or not, the newest first."""
    named = ((re.fullmatch(r"checkpoint-(\d+)", path.name), path) for path in folder.glob("checkpoint-*"))
    return dict(sorted(((int(step[1]), path) for step, path in named if step), reverse=True))


def newest_whole(folder: Path) -> tuple[Path | None, dict[Path, str]]:
    """The newest whole checkpoint in `folder`, and the newer ones that are torn, each with its fault."""
    torn = {}
    for path in checkpoints_in(folder).values():
        fault = fault_of(path)
        if fault is None:
            return path, torn
        torn[path] = fault
    return None, torn


def keep_newest(folder: Path, count: int, best: Path | None = None) -> None:
    """Removes all checkpoints in `folder` but the `count` newest and `best`."""
    for path in list(checkpoints_in(folder).values())[count:]:
        if path != best:
            remove_whole(path)
