"""Watching for numbers that are none, in routers, losses, gradients and weights, without a wait at every step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn

from lynx_moe.errors import DivergedError
from lynx_moe.objectives.attached import is_head

NEVER = torch.iinfo(torch.int64).max
SHOWN = 8  # records that a message names
# In the order in which one makes the next: of one micro-batch the first that went wrong is the cause.
ROUTER, LOSS, GRADIENT, WEIGHT = range(4)
FIX = (
    "lower trainer.learning_rate or trainer.max_grad_norm and start again (overwrite=true), or add "
    "trainer.resume=always to go on from the checkpoint before that step; look at the records; if it is step 1, look "
    "at the base (model.dtype=float16 overflows easily)"
)


@dataclass(frozen=True)
class MicroBatch:
    """What is remembered of a micro-batch until somebody has looked: small tensors on the device, read on failure."""

    step: int
    records_BK: Tensor | None
    fine_B: Tensor


class NumberWatch:
    """Remembers on the device, per thing watched, the first micro-batch at which it was not finite.

    Args:
        accelerator: all processes look together, and all stop with the message of the one where it began.
        name_of: what a message calls a record, given its row.
    """

    def __init__(self, accelerator: Accelerator, name_of: Callable[[int], str] = str):
        self._accelerator = accelerator
        self._name_of = name_of
        self._micro = self._step = 0
        self._kept: dict[int, MicroBatch] = {}
        self._first: dict[tuple[int, tuple[str, ...]], Tensor] = {}

    def see(
        self, step: int, blocks: dict[str, dict[str, Tensor]], terms: dict[str, Tensor], batch: dict[str, Any]
    ) -> None:
        """A micro-batch of an optimiser step: "finite_T" of each block's router, and the loss's terms, on the device.

        Args:
            batch: "input_ids" (B, L) for the number of rows, and "record_rows" (B, K) where it was traced.
        """
        self._micro += 1
        self._step = step
        rows = len(batch["input_ids"])
        device = batch["input_ids"].device
        fine_B = torch.ones(rows, dtype=torch.bool, device=device)
        fine_N = []
        for block in blocks.values():
            finite_T = block["finite_T"].to(device)
            fine_N.append(finite_T.all())
            fine_B = fine_B & (finite_T.view(rows, -1).all(dim=1) if finite_T.numel() % rows == 0 else fine_N[-1])
        if fine_N:
            self._note(ROUTER, tuple(blocks), torch.stack(fine_N))
        self._note(LOSS, tuple(terms), torch.stack([value.detach().isfinite().all() for value in terms.values()]))
        records = batch.get("record_rows")
        # Rows laid end to end are one row that holds them all.
        self._kept[self._micro] = MicroBatch(step, None if records is None else records.view(rows, -1), fine_B)

    def see_gradients(self, model: nn.Module) -> None:
        """The gradients as they are now, before anything clips them: a norm that is none would spoil all of them."""
        named = {name: local(p.grad) for name, p in model.named_parameters() if p.grad is not None}
        if named:
            norms = torch.stack([norm.float() for norm in torch._foreach_norm(list(named.values()))])
            self._note(GRADIENT, tuple(named), norms.isfinite())

    def see_norm(self, norm: float | Tensor | None) -> bool:
        """Whether the gradients' norm over all processes can be read without a wait and is not finite."""
        if norm is None or (isinstance(norm, Tensor) and norm.device.type != "cpu"):
            return False
        if math.isfinite(norm):
            return False
        self._note(GRADIENT, ("",), torch.tensor([False]))
        return True

    def refuse(self, model: nn.Module | None = None) -> None:
        """Reads everything, so call it where the device is waited for anyway, on all processes; with `model`, also its
        trained weights.

        Raises:
            DivergedError: something was not finite; the message names block, optimiser step and records.
        """
        if not self._micro:
            return
        if model is not None:
            trained = {name: local(p) for name, p in model.named_parameters() if p.requires_grad}
            if trained:
                fine = torch.stack([p.isfinite().all() for p in trained.values()])
                self._note(WEIGHT, tuple(trained), fine)
        mine = min(torch.stack([when_N.min().cpu() for when_N in self._first.values()]).tolist(), default=NEVER)
        of_all_P = self._accelerator.gather(torch.tensor([mine], device=self._accelerator.device))
        worst = of_all_P.argmin().item()
        if of_all_P[worst].item() == NEVER:
            self._kept.clear()
            return
        texts = [None if mine == NEVER else self._tell(mine)]
        if self._accelerator.num_processes > 1:
            broadcast_object_list(texts, from_process=worst)
        raise DivergedError(texts[0][0], why=texts[0][1], fix=FIX)

    def _note(self, kind: int, names: tuple[str, ...], fine_N: Tensor) -> None:
        before_N = self._first.get((kind, names))
        if before_N is None:
            before_N = torch.full((len(names),), NEVER, device=fine_N.device)
        # One number for when and what: the least of them is where it began.
        when = 4 * self._micro + kind
        self._first[kind, names] = before_N.where(fine_N | (before_N != NEVER), when)

    def _tell(self, when: int) -> tuple[str, str]:
        micro, kind = divmod(when, 4)
        names = [n for (k, ns), w_N in self._first.items() if k == kind for n, w in zip(ns, w_N.tolist(), strict=True)
                 if w == when and n]  # fmt: skip
        step = self._kept[micro].step if micro in self._kept else self._step
        more = f", and {len(names) - 1} {{}} after it" if len(names) > 1 else ""
        if kind == ROUTER:
            text = f"the router of {names[0]} gave scores that are not finite numbers at optimiser step {step}"
            text += more.format("routers")
        elif kind == LOSS:
            text = f"the loss ({', '.join(names)}) is not a finite number at optimiser step {step}"
        elif kind == GRADIENT:
            # Backward comes from above: of one step the highest block is where it began.
            where = f"{names[-1]}, of {owner_of(names[-1])}," if names else "the trained weights"
            text = f"the gradient of {where} is not finite at optimiser step {step}"
            text += f", nor are {len(names) - 1} more" if len(names) > 1 else ""
        else:
            text = f"{names[0]}, of {owner_of(names[0])}, is not finite after optimiser step {step}"
            text += f", and so do {len(names) - 1} more" if len(names) > 1 else ""
        return text, f"{CAUSES[kind]}; {self._whose(micro, kind, step)}"

    def _whose(self, micro: int, kind: int, step: int) -> str:
        """The records of the rows, micro-batch or step that went wrong."""
        of_step = [seen for number, seen in self._kept.items() if seen.step == step]
        chosen = [self._kept[micro]] if kind in (ROUTER, LOSS) else of_step
        rows: list[int] = []
        for seen in chosen:
            if seen.records_BK is not None:
                bad_B = ~seen.fine_B if kind == ROUTER else torch.ones_like(seen.fine_B)
                rows += [row for row in seen.records_BK[bad_B].flatten().tolist() if row >= 0]
        if not rows:
            return "the batch does not say which records it holds"
        what = {ROUTER: "the records of the rows concerned are", LOSS: "the records of that micro-batch are"}
        named = ", ".join(self._name_of(row) for row in rows[:SHOWN])
        rest = f" and {len(rows) - SHOWN} more" if len(rows) > SHOWN else ""
        here = f" (process {self._accelerator.process_index})" if self._accelerator.num_processes > 1 else ""
        return f"{what.get(kind, 'the records of that step are')} {named}{rest}{here}"


CAUSES = {
    ROUTER: "its input or its weights are infinite or undefined from there on, so every later step is lost",
    LOSS: "all routers were finite, so it arose above the last block or in the targets",
    GRADIENT: "losses and routers were finite, so it arose in the backward pass; the optimiser would write it into "
    "the adapter",
    WEIGHT: "the optimiser's own step overflowed, at this step or at one since the last log",
}


def owner_of(parameter: str) -> str:
    """The block (or attention layer), or the objective's head, that a trained tensor belongs to, in words.

    >>> owner_of("base_model.model.model.layers.2.mlp.lynx_branch.default.router_ED")
    'block model.layers.2.mlp'
    >>> owner_of("base_model.lynx_heads.regions.box.0.weight")
    'the head of objective regions'
    """
    if is_head(parameter):
        return f"the head of objective {parameter.split('.')[2]}"
    return "block " + parameter.removeprefix("base_model.model.").split(".lynx_")[0]


def local(tensor: Tensor) -> Tensor:
    """What of a tensor lies on this process: of one sharded by FSDP2 or DeepSpeed ZeRO-3 its own part."""
    if hasattr(tensor, "ds_tensor"):
        return tensor.ds_tensor
    return (tensor.to_local() if hasattr(tensor, "to_local") else tensor).detach()
