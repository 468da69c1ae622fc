"""What an export will do, decided before anything is computed or written."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from lynx_moe.errors import ConfigError, ExportError, nearest
from lynx_moe.export import native
from lynx_moe.export.read import Adapted, read

ROUTES = ("native", "code", "adapter", "auto")


@dataclass(frozen=True)
class Plan:
    """One way to export one model.

    `exactness` says in one sentence what the exported model keeps of the live one; `reasons` why this route was chosen
    and what it costs.
    """

    route: str
    host: str
    exactness: str
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"export by route {self.route!r}, host {self.host}", f"  keeps: {self.exactness}"]
        return "\n".join(lines + [f"  because: {reason}" for reason in self.reasons])


def plan(peft_model, route: str = "auto") -> Plan:
    """The route, host and exactness an export of this model would have; computes and writes nothing.

    "auto" takes a native host when that loses nothing, and self-contained code otherwise (our choice: a route that
    would drop the per-prompt gate is taken only when asked for by name).

    Args:
        peft_model: what `get_peft_model(vlm, LynxConfig(...))` returned.
        route: "native", "code", "adapter" or "auto".

    Raises:
        ConfigError: the route is unknown.
        ExportError: the model cannot take the route that was asked for.
    """
    return plan_adapted(read(peft_model), route)


def plan_adapted(adapted: Adapted, route: str) -> Plan:
    """`plan` for a model that was read already."""
    chosen = _choose(adapted, route)
    notes = []
    if chosen.route != "adapter" and adapted.gate != adapted.config.prompt_gate:
        notes.append("prompt_gate='auto' was never fitted, so it is open for every prompt here and ships on")
    if chosen.route != "adapter" and adapted.rounded_buffers:
        notes.append(
            f"a cast rounded the live model's {adapted.rounded_buffers[0]}, and a reloaded model's is not: logits will "
            "differ a little; load the base with dtype=... instead of casting it"
        )
    return replace(chosen, reasons=chosen.reasons + tuple(notes))


def _choose(adapted: Adapted, route: str) -> Plan:
    if route not in ROUTES:
        raise ConfigError(
            f"no export route {route!r}",
            why=f"the routes are {', '.join(ROUTES)}",
            fix=f"nearest: {nearest(route, ROUTES)}",
        )
    if route == "adapter":
        return _adapter(adapted)
    if route == "native":
        return _native(adapted, ("asked for by name",))
    if route == "code":
        return _code(adapted, ("asked for by name",))
    reason = native.refusal(adapted)
    if reason is not None:
        return _code(adapted, (f"no native host: {reason}",))
    if adapted.gate == "auto":
        host = native.choose(adapted)
        return _code(
            adapted, (f"native host {host} could not hold the per-prompt gate; route='native' ships with it on",)
        )
    return _native(adapted, ("a native host holds this model whole",))


def _native(adapted: Adapted, reasons: tuple[str, ...]) -> Plan:
    host = native.choose(adapted)
    exactness = "the same function wherever the new experts speak, up to the rounding of another order of additions"
    if adapted.gate == "auto":
        exactness = "the live model with its gate on, up to rounding; the per-prompt gate is dropped"
        reasons += ("the gate ships on: measure retention on the exported model, not on the adapter",)
    if adapted.config.mix == "convex":
        reasons += ("alpha is folded into the down projections: they are not the base's bytes any more",)
    if adapted.projections:
        reasons += (
            f"deltas are added into {len(adapted.projections)} attention matrices: not the base's bytes any more",
        )
    if adapted.dtype != torch.float32 and adapted.router_dtype == torch.float32:
        reasons += (f"the router is stored in {str(adapted.dtype).removeprefix('torch.')}, as the host has it",)
    return Plan("native", host, exactness, reasons)


def _code(adapted: Adapted, reasons: tuple[str, ...]) -> Plan:
    if adapted.quantised:
        raise ExportError(
            "a quantised base cannot be written as a self-contained model",
            why="its weights are packed by a quantisation library, not plain tensors",
            fix="attach the adapter to the unquantised base and export that, or use route='adapter'",
        )
    return Plan(
        "code",
        type(adapted.base).__name__,
        "the live model as it is, prompt gate included; base tensors byte for byte",
        reasons + ("loading needs trust_remote_code=True for one short file in the folder",),
    )


def _adapter(adapted: Adapted) -> Plan:
    reasons = ("asked for by name", "loading needs the base, peft and lynx_moe")
    if adapted.config.expert_init != "zero":
        reasons += (
            f"the new experts started as a {adapted.config.expert_init} of the base's: ask if its licence minds",
        )
    return Plan(
        "adapter",
        "peft",
        "the adapter as it is; no base tensor is shipped",
        reasons,
    )
