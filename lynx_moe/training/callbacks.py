"""What watches a training from beside it: the clock, the progress bar, and the search for dead parameters."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import nn
from tqdm.auto import tqdm
from transformers import TrainerCallback

from lynx_moe.training.schedule import TimeBudget

LOOK_FOR_DEAD = 2  # steps: with experts that start at zero output, the inner weights get no gradient at the very first


class StopInTime(TrainerCallback):
    """Counts the seconds of training and stops it, between two steps, when they are spent."""

    def __init__(self, budget: TimeBudget):
        self.budget = budget
        self.stopped_early = False

    def on_train_begin(self, args, state, control, **kwargs):
        self.budget.start()

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        self.budget.tick()
        if args.world_size > 1 and self.budget.max_seconds is not None:
            # Processes must agree on the learning rate and on the last step; the slowest clock decides.
            elapsed = torch.tensor(self.budget.elapsed, device=args.device)
            torch.distributed.all_reduce(elapsed, op=torch.distributed.ReduceOp.MAX)
            self.budget.elapsed = elapsed.item()

    def on_step_end(self, args, state, control, **kwargs):
        if self.budget.spent:
            self.stopped_early = state.global_step < state.max_steps
            control.should_training_stop = True


class DeadParameters(TrainerCallback):
    """Names, after the second step, every trainable tensor that has not seen one gradient different from zero.

    Such a tensor is listed, counted and trained, yet inert, which no loss curve shows.

    Args:
        keeps_gradients: gradients stay on the parameters until the optimiser's step; DeepSpeed takes them away before.
    """

    def __init__(self, model: nn.Module, *, keeps_gradients: bool = True):
        self._model = model
        self._seen = {name: torch.zeros((), dtype=torch.bool) for name, _ in self._trainable()}
        self._hooks = []
        if not keeps_gradients:
            self._hooks = [p.register_hook(partial(self._see, name)) for name, p in self._trainable()]
        self._steps = 0
        self.names: list[str] = []

    def _trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, p) for name, p in self._model.named_parameters() if p.requires_grad)

    def _see(self, name: str, gradient: torch.Tensor | None) -> None:
        if gradient is not None:
            own_part = gradient.to_local() if hasattr(gradient, "to_local") else gradient
            found = own_part.detach().any()
            self._seen[name] = self._seen[name].to(found.device) | found

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        if self._steps >= LOOK_FOR_DEAD:
            return
        self._steps += 1
        if not self._hooks:
            for name, parameter in self._trainable():
                self._see(name, parameter.grad)
        if self._steps == LOOK_FOR_DEAD:
            seen = torch.stack([flag.to(args.device) for flag in self._seen.values()]).int()
            if args.world_size > 1:
                torch.distributed.all_reduce(seen, op=torch.distributed.ReduceOp.MAX)
            self.names = sorted(name for name, flag in zip(self._seen, seen.tolist(), strict=True) if not flag)
            for hook in self._hooks:
                hook.remove()
            if self.names and state.is_world_process_zero:
                tqdm.write(f"warning: {len(self.names)} trainable tensors got no gradient in {LOOK_FOR_DEAD} steps: "
                           + ", ".join(self.names))  # fmt: skip


class Progress(TrainerCallback):
    """One bar over the optimiser steps, with the latest loss terms beside it."""

    SHOWN = ("loss", "answer_loss", "retention_kl")

    def __init__(self):
        self._bar: tqdm | None = None

    def on_train_begin(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            self._bar = tqdm(total=state.max_steps, initial=state.global_step, unit="step", dynamic_ncols=True)

    def on_step_end(self, args, state, control, **kwargs):
        if self._bar is not None:
            self._bar.update(state.global_step - self._bar.n)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if self._bar is not None and logs:
            self._bar.set_postfix({name: f"{logs[name]:.3f}" for name in self.SHOWN if name in logs})

    def on_train_end(self, args, state, control, **kwargs):
        if self._bar is not None:
            self._bar.close()
            self._bar = None
