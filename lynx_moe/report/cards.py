"""Runs as their folders tell them: finished, failed, unfinished, or with a card that cannot be read."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lynx_moe.errors import RecordError
from lynx_moe.interval import paired_interval
from lynx_moe.training.folder import RunFolder
from lynx_moe.training.settings import free_settings
from lynx_moe.training.started_with import flat

INSIDE = {"adapter", "checkpoints"}  # of a run; no run lies in them


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run folder.

    Attributes:
        name: the folder, seen from the one that the report is about.
        state: "done", "failed", "unfinished" or "broken" (a card that cannot be read).
        settings: by dotted name, those that decide what is learned; empty unless done.
        before, after: numbers of `evaluate` on the base and on the adapter; empty where nothing was measured.
        lost, won, asked: understanding answers that the adapter lost and won, of how many; None: not compared.
        gates: per block, mean gate on "grounding" and "understanding" rows.
        failure: "type", "what", "why" and "fix" of a run that is not done.
    """

    folder: Path
    name: str
    state: str
    settings: dict[str, object] = field(default_factory=dict)
    before: dict = field(default_factory=dict)
    after: dict = field(default_factory=dict)
    lost: int | None = None
    won: int | None = None
    asked: int | None = None
    mcnemar_p: float | None = None
    gates: dict[str, dict[str, float | None]] = field(default_factory=dict)
    seconds: float | None = None
    steps: int | None = None
    failure: dict[str, str] = field(default_factory=dict)

    @property
    def method(self) -> str:
        return str(self.settings.get("adapter.method", "lynx"))

    @property
    def acc50(self) -> float | None:
        return number(self.after, "grounding", "acc50")

    @property
    def change(self) -> float | None:
        """Retention: accuracy on understanding questions after minus before, a share."""
        after, before = (number(result, "retention", "accuracy") for result in (self.after, self.before))
        return None if after is None or before is None else after - before

    @property
    def interval(self) -> tuple[float, float] | None:
        """95% interval of `change`; None where the answers were not compared pair by pair."""
        return paired_interval(self.lost, self.won, self.asked) if self.asked else None

    @property
    def gate_use(self) -> float | None:
        """Mean gate over blocks and both kinds of rows; 0: shut everywhere. None for a baseline, which has none."""
        seen = [value for block in self.gates.values() for value in block.values() if value is not None]
        return sum(seen) / len(seen) if seen else None


def number(found: object, *path: str) -> float | None:
    """The number at `path` in nested dictionaries, None where there is no finite one."""
    for name in path:
        found = found.get(name) if isinstance(found, dict) else None
    is_number = isinstance(found, int | float) and not isinstance(found, bool)
    return found if is_number and abs(found) < float("inf") else None


def find_runs(folders: Sequence[str | Path]) -> list[Run]:
    """Every run in and under `folders`, sorted by folder.

    Raises:
        RecordError: a folder is missing, or there is no run in any.
    """
    found: dict[Path, Run] = {}
    roots = [Path(folder).resolve() for folder in folders]
    for given, root in zip(folders, roots, strict=True):
        if not root.is_dir():
            raise RecordError(f"{given} is no folder", why="nothing is there", fix="give the output_dir of a sweep")
        for path in run_folders(root):
            above = root if len(roots) == 1 else Path(os.path.commonpath(roots))
            name = path.relative_to(above).as_posix()
            found[path] = read(path, path.name if name == "." else name)
    if not found:
        raise RecordError(
            f"no run in {', '.join(map(str, folders))}",
            why="no folder there has a run.json, a failed.json or checkpoints/",
            fix="give the output_dir of a sweep or of a run",
        )
    return [found[path] for path in sorted(found)]


def run_folders(root: Path) -> Iterator[Path]:
    for here, below, files in os.walk(root):
        if {"run.json", "failed.json"} & set(files) or INSIDE & set(below):
            yield Path(here)
        below[:] = [name for name in below if name not in INSIDE and not name.startswith(".")]


def read(folder: Path, name: str) -> Run:
    """The run in `folder`, whatever state it is in; a card that cannot be read is a state, not an error."""
    files = RunFolder(folder)
    try:
        if files.card.exists():
            return from_card(folder, name, json.loads(files.card.read_text(encoding="utf-8")))
        if files.failed.exists():
            reason = json.loads(files.failed.read_text(encoding="utf-8"))
            words = {key: str(reason.get(key, "")) for key in ("type", "what", "why", "fix")}
            return Run(folder=folder, name=name, state="failed", failure=words)
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as problem:
        words = {"type": "broken", "what": f"its card cannot be read: {problem!r}", "why": "it was damaged or edited",
                 "fix": "run it again with overwrite=true"}  # fmt: skip
        return Run(folder=folder, name=name, state="broken", failure=words)
    words = {"type": "unfinished", "what": "there is no run.json yet", "why": "it runs still, or was interrupted",
             "fix": "the same command goes on with it"}  # fmt: skip
    return Run(folder=folder, name=name, state="unfinished", failure=words)


def from_card(folder: Path, name: str, card: dict) -> Run:
    measured = card.get("evaluation") or {}
    change = measured.get("change") or {}
    flips = [number(change, key) for key in ("lost", "won", "n")]
    counted = None not in flips and flips[2] > 0
    gates = card.get("gates") or {}
    free = free_settings()
    return Run(
        folder=folder,
        name=name,
        state="done",
        settings={key: value for key, value in flat(card["settings"]).items() if key not in free},
        before=dict(measured.get("before") or {}),
        after=dict(measured.get("after") or {}),
        lost=int(flips[0]) if counted else None,
        won=int(flips[1]) if counted else None,
        asked=int(flips[2]) if counted else None,
        mcnemar_p=number(change, "mcnemar_p") if counted else None,
        gates={
            block: {kind: number(seen, f"{kind}_gate") for kind in ("grounding", "understanding")}
            for block, seen in gates.items()
        },
        seconds=number(card, "train", "seconds"),
        steps=number(card, "train", "steps"),
    )
