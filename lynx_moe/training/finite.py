"""Watching the routers for numbers that are none, without waiting for the device at every step."""

from __future__ import annotations

import torch

from lynx_moe.errors import DivergedError

FINITE = 0  # steps count from 1


class RouterWatch:
    """Remembers, per block and on its device, the first optimiser step at which its router's scores were not finite."""

    def __init__(self):
        self._first: dict[str, torch.Tensor] = {}

    def see(self, blocks: dict[str, dict[str, torch.Tensor]], step: int) -> None:
        """Takes "finite" of each block, a bool on the device; no value is read here."""
        for name, block in blocks.items():
            before = self._first.get(name)
            if before is None:
                before = torch.full((), FINITE, device=block["finite"].device)
            self._first[name] = before.where(block["finite"] | (before != FINITE), step)

    def refuse(self) -> None:
        """Reads everything at once, so call it where the device is waited for anyway.

        Raises:
            DivergedError: a router was not finite; the message names the first block of the earliest step.
        """
        if not self._first:
            return
        device = next(iter(self._first.values())).device
        steps = torch.stack([step.to(device) for step in self._first.values()]).tolist()
        bad = {name: step for name, step in zip(self._first, steps, strict=True) if step != FINITE}
        if not bad:
            return
        name = min(bad, key=bad.get)  # of one step the lowest layer: blocks are in the order in which they ran
        others = sum(step == bad[name] for step in bad.values()) - 1
        raise DivergedError(
            f"the router of {name} gave scores that are not finite numbers at optimiser step {bad[name]}"
            + (f", and {others} routers after it" if others else ""),
            why="its input or its weights are infinite or undefined from there on, so every later step is lost",
            fix="lower trainer.learning_rate or trainer.max_grad_norm and start again (overwrite=true), or add "
            "trainer.resume=always to go on from the checkpoint before that step; if it is step 1, look at the base "
            "(model.dtype=float16 overflows easily)",
        )
