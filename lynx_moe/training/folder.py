"""The folder of a run: what is in it, who may write into it, and where to go on from."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from lynx_moe.errors import OutputExistsError

CHECKPOINT_FILES = ("adapter_model.safetensors", "trainer_state.json")
# And what optimiser and schedule remember, by who wrote it: the Trainer, FSDP2, DeepSpeed (one part per process).
PLAIN, BY_NAME, PARTS = "optimizer.pt", "optimizer_by_name.safetensors", "global_step*/*_optim_states.pt"
STATE_FILES = ((PLAIN, "scheduler.pt"), (BY_NAME,), (PARTS, "scheduler.pt"))


class RunFolder:
    """Paths of one run: `adapter/`, `log.jsonl`, `checkpoints/`, and `run.json`, which is written last."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.adapter = self.path / "adapter"
        self.card = self.path / "run.json"
        self.log = self.path / "log.jsonl"
        self.checkpoints = self.path / "checkpoints"

    def claim(self, *, resume: bool, overwrite: bool) -> None:
        """Makes the folder ready for writing.

        Raises:
            OutputExistsError: a finished run is here and `overwrite` is off; or an unfinished one, and neither
                `resume` nor `overwrite` says what to do with it.
        """
        if overwrite and not (resume and not self.card.exists()):
            self._clear()
        if self.card.exists():
            raise OutputExistsError(
                f"{self.path} already holds a finished run",
                why="a finished run is never replaced unasked",
                fix="choose another output_dir=..., or overwrite=true to throw it away",
            )
        if not resume and self.last_checkpoint():
            raise OutputExistsError(
                f"{self.path} holds an unfinished run, up to {self.last_checkpoint().name}",
                why="starting again would lose it",
                fix="trainer.resume=true goes on from there, overwrite=true starts again",
            )
        self.path.mkdir(parents=True, exist_ok=True)

    def last_checkpoint(self) -> Path | None:
        """The newest checkpoint with all its parts; one that lacks a part is passed over."""
        found = {}
        for path in self.checkpoints.glob("checkpoint-*") if self.checkpoints.is_dir() else ():
            step = re.fullmatch(r"checkpoint-(\d+)", path.name)
            parts = all((path / name).is_file() for name in CHECKPOINT_FILES)
            if step and parts and any(all(any(path.glob(name)) for name in names) for names in STATE_FILES):
                found[int(step[1])] = path
        return found[max(found)] if found else None

    def tidy(self) -> None:
        """Removes the checkpoints' folder if no checkpoint was ever written into it."""
        if self.checkpoints.is_dir() and not any(self.checkpoints.iterdir()):
            self.checkpoints.rmdir()

    def _clear(self) -> None:
        # Only what a run writes: the folder may be the user's own and hold other things.
        for folder in (self.adapter, self.checkpoints):
            shutil.rmtree(folder, ignore_errors=True)
        for file in (self.card, self.log):
            file.unlink(missing_ok=True)
