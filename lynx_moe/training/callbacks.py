"""What watches a training from beside it: the clock, the progress bar, and the search for dead parameters."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn
from tqdm.auto import tqdm
from transformers import TrainerCallback
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from lynx_moe.training.finite import local
from lynx_moe.training.schedule import TimeBudget

FIRST_LOOK = 2  # steps: with experts that start at zero output, the inner weights get no gradient at the very first
LAST_LOOK = 10  # steps: a small batch may hold nothing to learn


class StopInTime(TrainerCallback):
    """Counts the seconds of training and stops it, between two steps, when they are spent."""

    def __init__(self, budget: TimeBudget):
        self.budget = budget

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
            control.should_training_stop = True
            # As the Trainer does at a last step that it knew of.
            control.should_save = control.should_save or args.save_strategy != SaveStrategy.NO
            control.should_evaluate = control.should_evaluate or args.eval_strategy != IntervalStrategy.NO


class DeadParameters(TrainerCallback):
    """Names, from the second step to the tenth, every trainable tensor that has not seen one gradient but zero.

    Such a tensor is listed, counted and trained, yet inert, which no loss curve shows. Gradients are looked at as
    autograd makes them, and again where the optimiser finds them: DeepSpeed takes them out of `grad`, FSDP2 puts them
    nowhere else. A tensor is dead when no process saw a gradient in any micro-batch.

    Attributes:
        names: of the tensors that seem dead; None while training has not gone far enough to tell. The tenth step, or
            the last, decides, and warns.
    """

    def __init__(self):
        self.names: list[str] | None = None
        self._steps = 0
        self._seen: dict[str, torch.Tensor] = {}
        self._parameters: dict[str, nn.Parameter] = {}
        self._hooks: list = []
        self._before: dict | None = None

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        before, self._before = self._before, None
        if before:
            self._steps, self.names = before["steps"], before["names"]
            if before["settled"]:
                return
        # Here and not earlier: sharding may have replaced the parameters by others.
        self._parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._seen = {name: torch.zeros((), dtype=torch.bool, device=args.device) for name in self._parameters}
        for name in before["seen"] if before else ():
            self._seen[name] = torch.ones_like(self._seen[name])
        self._hooks = [p.register_hook(partial(self._see, name)) for name, p in self._parameters.items()]

    def _see(self, name: str, gradient: torch.Tensor) -> None:
        self._seen[name] = self._seen[name] | local(gradient).any().to(self._seen[name].device)

    def state(self) -> dict:
        """What was seen so far, for a run that is gone on with."""
        seen = sorted(name for name, value in self._seen.items() if value.item())
        return {"steps": self._steps, "seen": seen, "names": self.names, "settled": not self._parameters}

    def set_state(self, state: dict) -> None:
        """Goes on from what `state` gave, once training begins."""
        self._before = state

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        if not self._parameters:
            return
        self._steps += 1
        for name, p in self._parameters.items():
            if p.grad is not None:
                self._see(name, p.grad)
        if self._steps < FIRST_LOOK:
            return
        seen_P = torch.stack(list(self._seen.values())).int()
        if args.world_size > 1:
            torch.distributed.all_reduce(seen_P, op=torch.distributed.ReduceOp.MAX)
        self.names = sorted(n for n, seen in zip(self._parameters, seen_P.tolist(), strict=True) if not seen)
        if not self.names or self._steps == LAST_LOOK:
            self._settle(state)

    def on_train_end(self, args, state, control, **kwargs):
        if self._parameters:
            self._settle(state)

    def _settle(self, state) -> None:
        for hook in self._hooks:
            hook.remove()
        self._parameters, self._seen, self._hooks = {}, {}, []
        if self.names and state.is_world_process_zero:
            tqdm.write(f"warning: {len(self.names)} trainable tensors got no gradient in {self._steps} steps: "
                       + ", ".join(self.names))  # fmt: skip


class Progress(TrainerCallback):
    """One bar over the optimiser steps; beside it the latest loss terms, tokens per second and share of open gates."""

    SHOWN = {
        "loss": ("loss", "{:.3f}"),
        "answer_loss": ("answer", "{:.3f}"),
        "retention_kl": ("retention", "{:.3f}"),
        "tokens_per_second": ("tokens/s", "{:,.0f}"),
        "open": ("open", "{:.0%}"),
    }

    def __init__(self):
        self._bar: tqdm | None = None

    def on_train_begin(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            self._bar = tqdm(total=state.max_steps, initial=state.global_step, unit="step", dynamic_ncols=True)

    def on_step_end(self, args, state, control, **kwargs):
        if self._bar is not None:
            self._bar.update(state.global_step - self._bar.n)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if self._bar is not None and logs and "loss" in logs:
            words = {short: how.format(logs[name]) for name, (short, how) in self.SHOWN.items() if name in logs}
            self._bar.set_postfix(words)

    def on_train_end(self, args, state, control, **kwargs):
        if self._bar is not None:
            self._bar.close()
            self._bar = None
