"""The learning rate over a run that ends after a number of steps or a number of seconds, whichever comes first."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


class TimeBudget:
    """Seconds of training spent, of those allowed; the count goes on when a run is resumed.

    Args:
        max_seconds: how many are allowed; None for as many as it takes.
        clock: a monotonic clock in seconds.
    """

    def __init__(self, max_seconds: float | None = None, clock: Callable[[], float] = time.monotonic):
        self.max_seconds = max_seconds
        self.elapsed = 0.0
        self._clock = clock
        self._last: float | None = None

    def start(self) -> None:
        """Begins to count; what went before (loading, synthesis) is not training."""
        self._last = self._clock()

    def tick(self) -> float:
        """Counts the time since the last tick; returns the seconds spent in all."""
        now = self._clock()
        self.elapsed += now - (now if self._last is None else self._last)
        self._last = now
        return self.elapsed

    @property
    def fraction(self) -> float:
        return 0.0 if self.max_seconds is None else self.elapsed / max(self.max_seconds, 1e-9)

    @property
    def spent(self) -> bool:
        return self.max_seconds is not None and self.elapsed >= self.max_seconds


def warmup_cosine(progress: float, warmup: float) -> float:
    """Factor on the peak learning rate: linear up to 1 over the first `warmup` of the run, then a half cosine to 0.

    >>> [round(warmup_cosine(p, 0.5), 2) for p in (0, 0.25, 0.5, 0.75, 1)]
    [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    progress = min(max(progress, 0.0), 1.0)
    if progress < warmup:
        return progress / warmup
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / max(1 - warmup, 1e-9)))


class BudgetedCosine(LRScheduler):
    """Warm-up and cosine by the further of two fractions: of the steps, and of the seconds.

    So a slow machine that reaches its time limit early has annealed by then, as a fast one has at its last step.
    """

    def __init__(self, optimizer: Optimizer, *, total_steps: int, warmup: float, budget: TimeBudget):
        self.total_steps = total_steps
        self.warmup = warmup
        self.budget = budget
        super().__init__(optimizer)

    def get_lr(self) -> list[float]:
        # The middle of the step about to be made, so that neither the first nor the last step is wasted on a rate of 0.
        steps = (self.last_epoch + 0.5) / max(self.total_steps, 1)
        factor = warmup_cosine(max(steps, self.budget.fraction), self.warmup)
        return [base * factor for base in self.base_lrs]

    def state_dict(self) -> dict:
        """Where the run stands, not how it is set up: a resumed run follows the settings it is resumed with."""
        return {"last_epoch": self.last_epoch, "elapsed": self.budget.elapsed}

    def load_state_dict(self, state_dict: dict) -> None:
        self.last_epoch = state_dict["last_epoch"]
        self.budget.elapsed = state_dict["elapsed"]
        # Computed, not taken: the same numbers, unless the run goes on with another peak or length.
        self._last_lr = self.get_lr()
        for group, rate in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            group["lr"] = rate
