"""Looking inside while the model runs, without leaving anything behind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from lynx_moe.adapter.branch import BranchOutput
from lynx_moe.adapter.gate_context import runtime_of

OPEN = 0.5  # a gate above this is called open; our choice


@contextmanager
def record_routing(model: nn.Module) -> Iterator[dict[str, dict[str, Any]]]:
    """Yields a dict that every forward inside fills: block name to what its router and gate did, on the CPU.

    Per block: "weights_TK" and "experts_TK" (routing), "gate" (how open the gates are, `(T, K)` additive, `(T, 1)`
    token, `(1, 1)` convex), "rows" (the prompt gate, `(B,)` bool) and "penalties" (name to unweighted value). Blocks
    whose rows are all shut do not run and write nothing. A later forward overwrites: after `generate` the dict holds
    the last step. The model keeps nothing.
    """
    routing: dict[str, dict[str, Any]] = {}

    def record(name: str, out: BranchOutput, open_B: Tensor, costs: dict[str, Tensor], weight_T: Tensor) -> None:
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
def penalty_values(model: nn.Module, valid_BL: Tensor | None = None) -> Iterator[dict[str, dict[str, Tensor]]]:
    """Yields a dict that every forward inside fills: block name to its unweighted penalties and to

    - "finite_T" (T,), whether every score of a token's router is a finite number,
    - "tokens", how many tokens count: no padding, and their row is open,
    - "gate" and "open", sums over those tokens of the mean gate, and of whether the strongest gate is above one half,
    - "used_E" (E,), how many of those tokens each new expert got.

    For logs of a training loop: everything stays on its device, so nothing waits for it until it is read. Sums and not
    means, so that micro-batches and processes add up. What activation checkpointing runs again in backward is not seen.

    Args:
        valid_BL: which tokens are no padding, where the attention mask is not (B, L) and does not say so.
    """
    values: dict[str, dict[str, Tensor]] = {}

    def record(name: str, out: BranchOutput, open_B: Tensor, costs: dict[str, Tensor], weight_T: Tensor) -> None:
        if valid_BL is not None and valid_BL.numel() == len(weight_T):
            weight_T = weight_T * valid_BL.reshape(-1).to(weight_T)
        open_TG, experts_TK = out.open_TG.detach().float(), out.experts_TK.detach()
        used_E = weight_T.new_zeros(out.logits_TE.shape[-1])
        values[name] = {
            "finite_T": out.logits_TE.detach().isfinite().all(dim=-1),
            "tokens": weight_T.sum(),
            # One alpha per block stands for all its tokens.
            "gate": (open_TG.mean(dim=-1) * weight_T).sum(),
            "open": ((open_TG.amax(dim=-1) > OPEN) * weight_T).sum(),
            "used_E": used_E.scatter_add_(0, experts_TK.flatten(), weight_T.repeat_interleave(experts_TK.shape[-1])),
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
