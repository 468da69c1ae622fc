"""The folder of a run: what is in it, who may write into it, and where to go on from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from lynx_moe.errors import InUseError, OutputExistsError
from lynx_moe.training.checkpoints import checkpoints_in, newest_whole
from lynx_moe.training.settings import Settings
from lynx_moe.training.started_with import differences, started_with
from lynx_moe.whole import clear_leftovers, remove_whole, write_json

PATIENCE = 10.0  # seconds; loader processes of a run that was killed notice within five, and hold its lock until then


class RunFolder:
    """Paths of one run: `settings.json`, written first; `checkpoints/`, `adapter/`, `log.jsonl`, `blocks.jsonl`,
    `blocks.png`, `tensorboard/`; `evaluation.json` where the run measured itself, `failed.json` where a sweep's point
    failed; `run.json`, last.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.settings = self.path / "settings.json"
        self.adapter = self.path / "adapter"
        self.card = self.path / "run.json"
        self.log = self.path / "log.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self.evaluation = self.path / "evaluation.json"
        self.failed = self.path / "failed.json"
        self.blocks = self.path / "blocks.jsonl"
        self.heat_map = self.path / "blocks.png"
        self.tensorboard = self.path / "tensorboard"

    @contextmanager
    def owned(self, patience: float = PATIENCE) -> Iterator[None]:
        """Holds the folder for this process; however the process ends, the system lets go.

        Raises:
            InUseError: another process holds it, and still does after `patience` seconds.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / ".lock")
        try:
            try:
                lock.acquire(timeout=0)
            except Timeout:
                tqdm.write(f"{self.path} is in use; waiting {patience:g} seconds for its owner to end")
                lock.acquire(timeout=patience)
        except Timeout:
            raise InUseError(
                f"another process is training into {self.path}",
                why="two runs in one folder would overwrite each other's checkpoints",
                fix="wait for it, end it, or choose another output_dir=...",
            ) from None
        try:
            yield
        finally:
            # While it is held: who opened it in the meantime sees that it has no name any more, and makes a new one.
            (self.path / ".lock").unlink(missing_ok=True)
            lock.release()

    def claim(self, settings: Settings, processes: int = 1) -> None:
        """Makes the folder this run's: clears it, or leaves it to be gone on with, as `settings` say.

        Call it inside `owned`. What a killed run left half-written is removed.

        Raises:
            OutputExistsError: a finished run is here and `overwrite` is off; or an unfinished one whose checkpoints
                would be lost, or gone on with under settings that differ.
        """
        for folder in (self.path, self.checkpoints):
            clear_leftovers(folder)
        now = started_with(settings, processes)
        resume, overwrite = settings.trainer.resume, settings.overwrite
        if self.card.exists():
            if not overwrite:
                raise OutputExistsError(
                    f"{self.path} already holds a finished run",
                    why="a finished run is never replaced unasked",
                    fix="choose another output_dir=..., or overwrite=true to throw it away",
                )
            self._clear()
        elif not checkpoints_in(self.checkpoints):
            self._clear()  # nothing to lose: it ended before its first checkpoint
        elif resume != "always":
            trouble = self._trouble(now, resume)
            if trouble and not overwrite:
                raise trouble
            if trouble:
                self._clear()
        write_json(self.settings, now)

    def go_on_from(self) -> Path | None:
        """The newest whole checkpoint; newer torn ones are named and removed. None: start from the beginning."""
        found, torn = newest_whole(self.checkpoints)
        for path, fault in torn.items():
            tqdm.write(f"warning: {path.name} is torn and skipped: {fault}")
            remove_whole(path)
        if torn and not found:
            tqdm.write(f"WARNING: no checkpoint in {self.checkpoints} is whole: the run starts from the BEGINNING")
        elif found:
            tqdm.write(f"{self.path}: going on from {found.name}")
        return found

    def finished_with(self, settings: Settings) -> dict | None:
        """The card, when a finished run of the same settings is here; None otherwise."""
        card, before = read_json(self.card), read_json(self.settings)
        if card is None or before is None or differences(before, started_with(settings)):
            return None
        return card

    def tidy(self) -> None:
        """Removes the checkpoints' folder if no checkpoint was ever written into it."""
        if self.checkpoints.is_dir() and not any(self.checkpoints.iterdir()):
            self.checkpoints.rmdir()

    def _trouble(self, now: dict, resume: str) -> OutputExistsError | None:
        """Why the unfinished run that is here cannot simply go on."""
        before, newest = read_json(self.settings), next(iter(checkpoints_in(self.checkpoints).values())).name
        if resume == "never":
            return OutputExistsError(
                f"{self.path} holds an unfinished run, up to {newest}",
                why="trainer.resume is never, and starting again would lose it",
                fix="leave trainer.resume=auto to go on, or overwrite=true to start again",
            )
        fix = "trainer.resume=always goes on with the settings given now, overwrite=true starts again"
        if before is None:
            return OutputExistsError(
                f"{self.path} holds checkpoints, up to {newest}, but no settings.json that says of which run",
                why="its settings are not known, so neither is whether this command may go on with it",
                fix=f"{fix}; or choose another output_dir=...",
            )
        differs = differences(before, now)
        if differs:
            return OutputExistsError(
                f"{self.path} holds an unfinished run, up to {newest}, with other settings: {'; '.join(differs)}",
                why="going on would give a run that follows neither",
                fix=f"give the settings of before; or {fix}; or choose another output_dir=...",
            )
        return None

    def _clear(self) -> None:
        # Only what a run writes: the folder may be the user's own and hold other things. The settings go first, so that
        # what is left when this is interrupted is never taken for a run to go on with.
        for file in (self.settings, self.card):
            file.unlink(missing_ok=True)
        for folder in (self.checkpoints, self.adapter, self.tensorboard):
            if folder.exists():
                shutil.rmtree(folder)
        for file in (self.log, self.blocks, self.heat_map, self.evaluation, self.failed):
            file.unlink(missing_ok=True)


def read_json(path: Path) -> dict | None:
    """What the file holds; None when there is none, or not whole."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
