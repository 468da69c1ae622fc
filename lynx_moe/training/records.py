"""The records of a run: made by synth when they are missing, and read as training samples."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import yaml

import lynx_moe
from lynx_moe.data.folder import KINDS, SEVERAL
from lynx_moe.errors import ConfigError, RecordError
from lynx_moe.training.checked import REQUIRED
from lynx_moe.training.settings import DataSettings

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def splits_in(folder: Path) -> dict[str, dict]:
    """The finished splits of a folder of records, each with the settings it was made with; empty when there is none."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        return dict(manifest["settings"]) if manifest.get("finished") else {}
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, AttributeError, TypeError):
        return {}


def make_missing(settings: DataSettings) -> list[str]:
    """Runs `python -m synth` for every split that `settings.make` describes and the folder lacks.

    In a process of its own: making data and training on it share nothing but the file format.

    Returns:
        The splits that were made.

    Raises:
        ConfigError: no folder was given, or a split is there already, made with another size or source, say.
        RecordError: synth failed, or left no finished split behind.
    """
    if settings.folder == REQUIRED:
        raise ConfigError("data.folder is not set", why="a run needs records", fix="give the folder that synth wrote")
    folder = Path(settings.folder)
    there = splits_in(folder)
    make = settings.make or {}
    missing = [split for split in make if split not in there]
    for split in make.keys() & there.keys():
        asked = dict(argument.split("=", 1) for argument in make[split] if "=" in argument)
        made = there[split]
        other = [f"{name}={made[name]}" for name, value in asked.items() if name in made and not _is(made[name], value)]
        if other:
            raise ConfigError(
                f"{folder} holds split {split!r} made with {', '.join(other)}",
                why=f"data.make.{split} asks for {', '.join(make[split])}",
                fix="take it as it is with data.make=null, or give another data.folder=...",
            )
    # A checkout that was never installed works too: synth lies beside lynx_moe.
    beside = str(Path(lynx_moe.__file__).resolve().parents[1])
    path = os.pathsep.join(p for p in (os.environ.get("PYTHONPATH"), beside) if p)
    for split in missing:
        command = [sys.executable, "-m", "synth", *make[split], f"split={split}", f"out={folder}"]
        done = subprocess.run(
            command, env={**os.environ, "PYTHONPATH": path}, check=False, preexec_fn=end_with_parent()
        )
        if done.returncode or split not in splits_in(folder):
            raise RecordError(
                f"could not make split {split!r} in {folder}: synth ended with status {done.returncode}",
                why="its own message stands above",
                fix=f"run it alone: python {' '.join(command[1:])}",
            )
    return missing


def end_with_parent() -> Callable[[], None] | None:
    """For `preexec_fn`: the system ends the new process when this one is killed; None where it cannot (only Linux can).

    Left alone, a synth whose run was killed would still write while the same command, given again, starts another.
    """
    if not sys.platform.startswith("linux"):
        return None
    # Looked up before the fork, in which as little as possible should happen.
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def ask() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # too late: it is gone already
            os._exit(1)

    return ask


def _is(made: object, asked: str) -> bool:
    """Whether a setting that a manifest holds is what an argument of `python -m synth` asks for."""
    if not isinstance(made, list):
        return yaml.safe_load(asked) == made  # as synth reads it: `true` is True
    names = {name.strip() for name in asked.strip("[]").split(",")}
    # Which tasks a kind (or "all") stands for only synth knows; the tasks named beside it must be there.
    open_ended = names & {"all", SEVERAL, *KINDS}
    return names - open_ended <= set(made) if open_ended else names == set(made)
