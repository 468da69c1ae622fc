"""Looking inside while the model runs, without leaving anything behind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from lynx_moe.adapter.branch import BranchOutput
from lynx_moe.adapter.gate_context import runtime_of


@contextmanager
def record_routing(model: nn.Module) -> Iterator[dict[str, dict[str, Any]]]:
    """Yields a dict that every forward inside fills: block name to what its router and gate did, on the CPU.

    Per block: "weights_TK" and "experts_TK" (routing), "gate" (how open the gates are, `(T, K)` additive, `(T, 1)`
    token, `(1, 1)` convex), "rows" (the prompt gate, `(B,)` bool) and "penalties" (name to unweighted value). Blocks
    whose rows are all shut do not run and write nothing. A later forward overwrites: after `generate` the dict holds
    the last step. The model keeps nothing.
    """
    routing: dict[str, dict[str, Any]] = {}

    def record(name: str, out: BranchOutput, open_B: Tensor, costs: dict[str, Tensor]) -> None:
        routing[name] = {
            "weights_TK": out.weights_TK.detach().cpu(),
            "experts_TK": out.experts_TK.detach().cpu(),
            "gate": out.open_TG.detach().cpu(),
            "rows": open_B.cpu(),
            "penalties": {name: cost.item() for name, cost in costs.items()},
        }

    with _recorder(model, record):
        yield routing


@contextmanager
def penalty_values(model: nn.Module) -> Iterator[dict[str, dict[str, Tensor]]]:
    """Yields a dict that every forward inside fills: block name to its unweighted penalties, "gate", the mean gate,
    and "finite", whether every score of its router is a finite number.

    For logs of a training loop: scalars stay on their device, so nothing waits for it until they are read.
    """
    values: dict[str, dict[str, Tensor]] = {}

    def record(name: str, out: BranchOutput, open_B: Tensor, costs: dict[str, Tensor]) -> None:
        values[name] = {
            "gate": out.open_TG.detach().mean(),
            "finite": out.logits_TE.detach().isfinite().all(),
            **{n: cost.detach() for n, cost in costs.items()},
        }

    with _recorder(model, record):
        yield values


def dead_parameters(model: nn.Module) -> list[str]:
    """Names of trainable tensors without a gradient after a backward: no loss can ever move them.

    Empty for a healthy adapter, also on the first step and also for experts that received no token (their gradient is
    zero, which is not the same as none). Anything here means that part of the graph is cut, for example by reentrant
    checkpointing without `model.enable_input_require_grads()`.
    """
    return [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]


@contextmanager
def _recorder(model: nn.Module, record) -> Iterator[None]:
    runtime = runtime_of(model)
    before = runtime.recorder
    runtime.recorder = record
    try:
        yield
    finally:
        runtime.recorder = before
