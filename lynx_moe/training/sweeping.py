"""Many runs under one folder: a point that is done is not done again, and one that fails does not stop the others.

How the points are chosen and where they run is Hydra's business (lynx_moe/training/command.py); nothing here knows it.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

from filelock import FileLock

from lynx_moe.errors import LynxError, OutputExistsError
from lynx_moe.training.folder import RunFolder
from lynx_moe.training.settings import Settings
from lynx_moe.training.whole import write_json

Objectives = tuple[float, float]
BESIDE = ".sweep"  # locks of the points, and the base's answers that they share

# Say how to run, not what is learned: a finished point with other values of these is the same point.
NOT_WHAT = {("output_dir",), ("overwrite",), ("data", "workers"), ("evaluation", "base_answers"),
            *(("trainer", name) for name in ("resume", "progress", "log_every", "save_every", "keep"))}  # fmt: skip


def objectives(card: dict) -> Objectives | None:
    """(grounding Acc@0.5, retention) after training, both to be maximised; None when the run did not measure both.

    >>> objectives({"evaluation": {"after": {"grounding": {"acc50": 0.5}, "retention": {"accuracy": 0.9}}}})
    (0.5, 0.9)
    """
    after = (card.get("evaluation") or {}).get("after") or {}
    acc50 = (after.get("grounding") or {}).get("acc50")
    retention = (after.get("retention") or {}).get("accuracy")
    return None if acc50 is None or retention is None else (acc50, retention)


def run_point(
    settings_of: Callable[[], Settings],
    work: Callable[[Settings], Objectives | None],
    *,
    folder: Path,
    sweep: Path,
    command: str,
) -> Objectives | None:
    """Runs one point of a sweep in its own folder, unless it is finished there already.

    A failure is written into the folder as failed.json (type, what, why, fix) and not raised.

    Args:
        settings_of: gives the point's settings, or raises what is wrong with them.
        work: trains by these settings and returns the two numbers.
        folder: the point's own.
        sweep: folder of the whole sweep.
        command: the sweep command that this belongs to; `failures` finds its points by it.

    Returns:
        What `work` returned, or the numbers of the finished run; None for a failed point, and where nothing was
        measured.
    """
    here = RunFolder(folder)
    # Only the first of a point's processes may wait here: the others wait for it in their first collective.
    first = int(os.environ.get("RANK", "0")) == 0
    with point_lock(sweep, folder) if first else nullcontext():
        try:
            settings = settings_of()
            settings.output_dir = str(folder)
            settings.evaluation.base_answers = settings.evaluation.base_answers or str(sweep / BESIDE / "base")
            if here.card.exists() and not settings.overwrite:
                card = refuse_other_settings(here, settings)
                print(f"{folder.name}: already done")
                return objectives(card)
            if first:
                here.failed.unlink(missing_ok=True)
            # What an interruption left behind is gone on with, unless the user wants it thrown away.
            settings.trainer.resume |= not settings.overwrite
            return work(settings)
        except Exception as problem:
            if first:
                note_failure(here, problem, command)
    # Outside of the handler, where the failed run's tensors hang on the traceback.
    free_memory()
    return None


def point_lock(sweep: Path, folder: Path) -> FileLock:
    """Held while a point runs: samplers may propose the same point twice, and old jobs of a cluster may still run."""
    beside = sweep / BESIDE
    beside.mkdir(parents=True, exist_ok=True)
    name = os.path.relpath(folder, sweep).replace(os.sep, "_")
    return FileLock(beside / f"{name[-200:]}.lock")


def refuse_other_settings(folder: RunFolder, settings: Settings) -> dict:
    """The card of a finished run.

    Raises:
        OutputExistsError: it was trained with other settings, or its card cannot be read.
    """
    try:
        card = json.loads(folder.card.read_text(encoding="utf-8"))
        there = flat(card["settings"])
    except (ValueError, KeyError, TypeError, AttributeError) as problem:
        raise OutputExistsError(
            f"the card of the finished run in {folder.path} cannot be read",
            why=str(problem),
            fix="remove the folder, or overwrite=true to train it again",
        ) from problem
    asked = flat(json.loads(json.dumps(asdict(settings))))
    # Settings that only one of the two versions of this library knew have had no say in both.
    other = [key for key in sorted(there.keys() & asked.keys()) if key not in NOT_WHAT and there[key] != asked[key]]
    if other:
        key = other[0]
        raise OutputExistsError(
            f"{folder.path} already holds a finished run with other settings",
            why=f"{'.'.join(key)} is {there[key]!r} there and {asked[key]!r} here"
            + (f", and {len(other) - 1} more differ" if other[1:] else ""),
            fix="choose another output_dir=... for this sweep, or overwrite=true to throw the old one away",
        )
    return card


def flat(settings: dict, above: tuple[str, ...] = ()) -> dict[tuple[str, ...], object]:
    """Settings by their path; lists and the dictionary of data.make are values, not groups."""
    found = {}
    for name, value in settings.items():
        if isinstance(value, dict) and not above:
            found |= flat(value, (name,))
        else:
            found[*above, name] = value
    return found


def note_failure(folder: RunFolder, problem: Exception, command: str) -> None:
    """Writes failed.json, and the reason to the terminal; of a bug the whole traceback, as outside of a sweep."""
    known = isinstance(problem, LynxError)
    text = "".join(traceback.format_exception(problem))
    print(f"{folder.path.name}: {type(problem).__name__}: {problem}" if known else text, file=sys.stderr)
    folder.path.mkdir(parents=True, exist_ok=True)
    reason = {
        "type": type(problem).__name__,
        "what": problem.message if known else str(problem) or repr(problem),
        "why": problem.why if known else "this is no mistake in the settings that is known; see the traceback",
        "fix": problem.fix if known else fix_of(problem),
        "command": command,
    }
    write_json(folder.failed, reason if known else reason | {"traceback": text})


def fix_of(problem: Exception) -> str:
    if isinstance(problem, MemoryError) or type(problem).__name__ == "OutOfMemoryError":
        return "a smaller trainer.batch_size with more trainer.accumulate, or trainer.checkpointing=non_reentrant"
    return "run this point alone with its settings; the same sweep command tries it again"


def free_memory() -> None:
    """Gives a failed point's memory back before the next one begins in the same process."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def failures(sweep: Path, command: str) -> dict[str, dict]:
    """Folder, relative to the sweep's, and failed.json of every point that failed in this command."""
    found = {}
    for path in sorted(sweep.rglob("failed.json")):
        reason = json.loads(path.read_text(encoding="utf-8"))
        if reason.get("command") == command:
            found[str(path.parent.relative_to(sweep))] = reason
    return found
