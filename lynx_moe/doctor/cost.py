"""Memory and time of a training, from a few of its own steps."""

from __future__ import annotations

import math
import sys
import tempfile
import time
from copy import deepcopy
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import SequentialSampler, Subset
from transformers import TrainerCallback

from lynx_moe.data.screening import evenly
from lynx_moe.doctor.lengths import longest_rows
from lynx_moe.training.arguments import training_arguments
from lynx_moe.training.folder import RunFolder
from lynx_moe.training.preparing import Prepared
from lynx_moe.training.settings import Settings
from lynx_moe.training.trainer import LynxTrainer

TIMED = 2  # steps, after one on the longest rows, which also warms up


class InOrder(LynxTrainer):
    """Takes the rows as they stand."""

    def _get_train_sampler(self, train_dataset=None):
        return SequentialSampler(train_dataset if train_dataset is not None else self.train_dataset)

    def _name_of(self, row: int) -> str:
        return repr(self.train_dataset.dataset.records.column("id", [row])[0])


class Clock(TrainerCallback):
    """Seconds of each step."""

    def __init__(self):
        self.seconds: list[float] = []
        self._since = 0.0

    def on_step_begin(self, args, state, control, **kwargs):
        self._since = time.monotonic()

    def on_step_end(self, args, state, control, **kwargs):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds.append(time.monotonic() - self._since)


def measure_cost(prepared: Prepared, settings: Settings, looked_at: list[int]) -> dict:
    """Runs three real steps with the trainer of a run and says what the run will take.

    The first step holds the longest rows of those looked at, so that the peak of memory is that of the worst batch; the
    other two, evenly spread rows, are timed. The model is changed by them; nothing is written.
    """
    chosen = settings.trainer
    rows = chosen.batch_size * chosen.accumulate
    longest = longest_rows(prepared.dataset, looked_at, rows)
    usual = list(evenly(len(prepared.dataset), TIMED * rows))
    order = filled(longest, rows) + filled(usual, TIMED * rows)
    clock = Clock()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with tempfile.TemporaryDirectory() as folder:
        trainer = InOrder(
            prepared.model,
            training_arguments(short(settings), RunFolder(Path(folder))),
            retention_kl=settings.objective.retention_kl,
            box_weight=settings.objective.box_weight,
            step_weights=settings.objective.step_weights,
            answer_weight=settings.objective.answer_weight,
            progress=False,
            callbacks=[clock],
            train_dataset=Subset(prepared.dataset, order),
            data_collator=prepared.collator,
        )
        if chosen.checkpointing == "reentrant":
            prepared.model.enable_input_require_grads()
        done = trainer.train()
    per_step = sum(clock.seconds[1:]) / len(clock.seconds[1:])
    steps = steps_of(settings, len(prepared.dataset))
    total = steps * per_step
    return {
        "loss": done.training_loss,
        "dead_parameters": trainer.dead_parameters.names or [],
        "memory": memory(prepared.model),
        "seconds_per_step": per_step,
        "steps": steps,
        "seconds": total if chosen.max_seconds is None else min(total, chosen.max_seconds),
    }


def short(settings: Settings) -> Settings:
    """The same training, three steps long, that saves nothing."""
    copy = deepcopy(settings)
    copy.trainer.max_steps, copy.trainer.max_seconds = 1 + TIMED, None
    copy.trainer.save_every, copy.trainer.log_every, copy.trainer.evaluate_every = 0, 1, 0
    return copy


def filled(places: list[int], count: int) -> list[int]:
    """`count` places, those given again and again."""
    return [places[k % len(places)] for k in range(count)]


def steps_of(settings: Settings, rows: int) -> int:
    """Optimiser steps of the whole run with one process, counted as the Trainer counts."""
    chosen = settings.trainer
    if chosen.max_steps:
        return chosen.max_steps
    batches = math.ceil(rows / chosen.batch_size)
    return math.ceil(chosen.epochs * max(1, math.ceil(batches / chosen.accumulate)))


def memory(model: nn.Module) -> dict[str, int]:
    """Bytes: of the frozen base, the trained weights, their gradients and AdamW's two moments; and the peak, of the GPU
    where there is one, else of the whole process.
    """
    frozen = sum(p.numel() * p.element_size() for p in model.parameters() if not p.requires_grad)
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    if torch.cuda.is_available():
        peak, where = torch.cuda.max_memory_allocated(), "GPU"
    else:
        peak, where = peak_of_process(), "process"
    parts = {"base": frozen, "adapter": trained, "gradients": trained, "optimiser": 2 * trained}
    return {**parts, "peak": peak, "peak_of": where, "rest": max(0, peak - sum(parts.values()))}


def peak_of_process() -> int:
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024  # macOS counts bytes, Linux kilobytes
