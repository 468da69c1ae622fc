"""A Trainer that goes on exactly where it stood: what Hugging Face's keeps as pickles or forgets is kept here.

Forgotten there: the loss and its terms summed since the last row of the log, and the loss of the steps before. Kept as
pickles: optimiser, schedule, random numbers, the loss scaler.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import TrainerCallback

from lynx_moe.training.checkpoints import PLAIN
from lynx_moe.training.state import (
    State,
    load_optimizer_state,
    optimizer_state,
    read_state,
    rng_state,
    set_rng_state,
    write_state,
)
from lynx_moe.whole import write_json

SCHEDULER, SCALER = "scheduler.json", "scaler.json"


class _PutBack(TrainerCallback):
    """Sets the sums of before at the one moment after the Trainer has set them to zero and before its first step."""

    def __init__(self, trainer: ExactResume):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        if self.trainer.resumed_from is not None:
            self.trainer.put_back_progress()


class ExactResume:
    """To be inherited before `transformers.Trainer`; a resumed run then has the bits of one that never stopped.

    A subclass that sums something from step to step adds it in `progress` and `set_progress`.

    Under DeepSpeed, optimiser and schedule stay in its own format.
    """

    resumed_from: Path | None = None

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.add_callback(_PutBack(self))

    # ---- what is summed from step to step ----

    def progress(self) -> State:
        """This process's sums since the last row of the log, and where that row was."""
        tensors = {"loss_since_log": self._tr_loss}
        return tensors, {"loss_until_log": self._total_loss_scalar, "logged_at": self._globalstep_last_logged}

    def set_progress(self, state: State) -> None:
        tensors, plain = state
        self._tr_loss = tensors["loss_since_log"].to(self.args.device)
        self._total_loss_scalar = plain["loss_until_log"]
        self._globalstep_last_logged = plain["logged_at"]
        self._initial_global_step = 0  # means over the whole run, not over what this process does of it

    def put_back_progress(self) -> None:
        own = self._of_this_process(self.resumed_from)
        tensors, plain = read_state(own if own.is_file() else self.resumed_from / "process-0.safetensors")
        if not own.is_file():
            # A process that the earlier run did not have: it stands where all stand, and its sums begin at 0.
            tensors = {name: torch.zeros_like(value) for name, value in tensors.items()}
        self.set_progress((tensors, plain))

    # ---- per process: random numbers and sums ----

    def _of_this_process(self, checkpoint: Path | str) -> Path:
        return Path(checkpoint) / f"process-{self.args.process_index}.safetensors"

    def _save_rng_state(self, output_dir: str) -> None:
        path = self._of_this_process(output_dir)
        path.parent.mkdir(parents=True, exist_ok=True)  # the main process, which makes it, may be later
        (random_tensors, random_plain), (tensors, plain) = rng_state(self.args.device), self.progress()
        write_state(path, (random_tensors | tensors, random_plain | plain))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None and (path := self._of_this_process(checkpoint)).is_file():
            set_rng_state(read_state(path), self.args.device)

    # ---- of all processes together ----

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self.is_deepspeed_enabled:
            super()._save_optimizer_and_scheduler(output_dir)
        elif self.args.should_save:
            write_state(Path(output_dir, PLAIN), optimizer_state(self.optimizer, self.model))
            write_json(Path(output_dir, SCHEDULER), self.lr_scheduler.state_dict())

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        if self.is_deepspeed_enabled:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        load_optimizer_state(self.optimizer, self.model, read_state(Path(checkpoint, PLAIN)))
        self.lr_scheduler.load_state_dict(json.loads(Path(checkpoint, SCHEDULER).read_text()))

    def _save_scaler(self, output_dir: str) -> None:
        if self.args.should_save and getattr(self.accelerator, "scaler", None) is not None:
            write_json(Path(output_dir, SCALER), self.accelerator.scaler.state_dict())

    def _load_scaler(self, checkpoint: str | None) -> None:
        if checkpoint is not None and (path := Path(checkpoint, SCALER)).is_file():
            self.accelerator.scaler.load_state_dict(json.loads(path.read_text()))

    # ---- where in the data ----

    def _init_training_state(self, max_steps, num_update_steps_per_epoch, num_train_epochs, checkpoint, trial):
        where = super()._init_training_state(max_steps, num_update_steps_per_epoch, num_train_epochs, checkpoint, trial)
        # The saved state brings its own; how often to log and to save is for the settings to say.
        self.state.compute_steps(self.args, max_steps)
        self.resumed_from = None if checkpoint is None else Path(checkpoint)
        return where

    def _run_epoch(self, **rest) -> None:
        if self.nothing_left():
            # Hugging Face's loop asks after a step, not before: from the last checkpoint it would make one too many.
            self.control.should_training_stop = True
            return
        set_epoch_of(rest["train_dataloader"], rest["epoch"])
        super()._run_epoch(**rest)

    def nothing_left(self) -> bool:
        return self.state.global_step >= self.state.max_steps


def set_epoch_of(loader: torch.utils.data.DataLoader, epoch: int) -> None:
    """Tells the sampler, however deep the launcher has wrapped it, of which epoch the order of the records is.

    accelerate 1.15 looks through two wrappings; a resumed epoch of several processes has three.
    """
    sampler = loader.batch_sampler
    while sampler is not None:
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(epoch)
        sampler = getattr(sampler, "batch_sampler", None) or getattr(sampler, "sampler", None)
