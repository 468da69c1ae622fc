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
from pathlib import Path

from filelock import FileLock

from lynx_moe.errors import LynxError, OutputExistsError
from lynx_moe.training.folder import RunFolder, read_json
from lynx_moe.training.settings import Settings
from lynx_moe.training.started_with import differences, started_with
from lynx_moe.whole import write_json

Objectives = tuple[float, float]
LAUNCHED = "TORCHELASTIC_RUN_ID"  # torchrun's sign
BESIDE = ".sweep"  # locks of the points, and the base's answers that they share


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

    A failure is written into the folder as failed.json (type, what, why, fix) and not raised, but under torchrun, where
    processes that fail apart would meet again in different points.

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
                card = finished(here, settings)
                print(f"{folder.name}: already done")
                return objectives(card)
            if first:
                here.failed.unlink(missing_ok=True)
            return work(settings)
        except Exception as problem:
            if first:
                note_failure(here, problem, command)
            if LAUNCHED in os.environ:
                # Other processes may not have failed and stand elsewhere: better all end. The same command goes on.
                raise
    # Outside of the handler, where the failed run's tensors hang on the traceback.
    free_memory()
    return None


def point_lock(sweep: Path, folder: Path) -> FileLock:
    """Held while a point runs: samplers may propose the same point twice, and old jobs of a cluster may still run."""
    beside = sweep / BESIDE
    beside.mkdir(parents=True, exist_ok=True)
    name = os.path.relpath(folder, sweep).replace(os.sep, "_")
    return FileLock(beside / f"{name[-200:]}.lock")


def finished(folder: RunFolder, settings: Settings) -> dict:
    """The card of the finished run in `folder`.

    Raises:
        OutputExistsError: it was trained with other settings, or what it left cannot be read.
    """
    card, before = read_json(folder.card), read_json(folder.settings)
    if card is None or before is None:
        raise OutputExistsError(
            f"the card of the finished run in {folder.path} cannot be read",
            why="run.json or settings.json is damaged or missing",
            fix="remove the folder, or overwrite=true to train it again",
        )
    other = differences(before, started_with(settings))
    if other:
        raise OutputExistsError(
            f"{folder.path} already holds a finished run with other settings",
            why="; ".join(other),
            fix="choose another output_dir=... for this sweep, or overwrite=true to throw the old one away",
        )
    return card


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
