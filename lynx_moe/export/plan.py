"""What an export will do, and what it will cost, decided before anything is written or run."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import ModuleType

from torch import nn

from lynx_moe.errors import ConfigError, ExportError, nearest
from lynx_moe.export import adapter_only, code, code_heads, dense, native, vllm
from lynx_moe.export.built import Built, instantiate
from lynx_moe.export.cost import Cost, cost_of, cost_of_base, cost_of_live, cost_of_tensors, readable
from lynx_moe.export.promise import Promise
from lynx_moe.export.read import Adapted, read

# In the order in which "auto" tries them, best first.
ORDER: dict[str, ModuleType] = {"dense": dense, "native": native, "code": code, "adapter": adapter_only}
# Taken only when asked for by name.
BY_NAME: dict[str, ModuleType] = {"vllm": vllm}
ROUTES = ("auto", *ORDER, *BY_NAME)
# Routes without a prompt gate: what they write speaks on every prompt.
ALWAYS_ON = ("dense", "native", "vllm")
GATES = ("auto", "on")
# Of the largest logit, in float32.
ROUNDING = 1e-5


@dataclass(frozen=True)
class Plan:
    """One way to export one model.

    Attributes:
        route: which of `ROUTES`, never "auto".
        promise: host, exactness and its bound, what is kept, what it costs, and what serves it.
        cost, base: size on disk and FLOPs per token of the export (gate open) and of its base.
        better: routes that "auto" would try before this one, and why each was not taken.
        gate: "auto", "on" or "off": the prompt gate of the exported model.
    """

    route: str
    promise: Promise
    cost: Cost
    base: Cost
    better: dict[str, str]
    gate: str

    @property
    def host(self) -> str:
        return self.promise.host

    def __str__(self) -> str:
        promise = self.promise
        exactness = promise.exactness
        if promise.exactness == "rounding":
            exactness += f", within {promise.bound:.0e} of the largest logit in float32"
        flops = (self.cost.flops_per_token, self.base.flops_per_token)
        lines = [
            f"export by route {self.route!r}, host {self.host}",
            f"  keeps: {promise.keeps}",
            f"  exactness: {exactness}",
            f"  size: {_beside(self.cost.size_bytes, self.base.size_bytes, 'B')}",
            f"  per token: {_beside(*flops, 'FLOPs')} (text decoder and head, gate open, without attention scores)",
            f"  served by: {'; '.join(f'{name} {answer}' for name, answer in promise.served_by.items())}",
            *(f"  note: {cost}" for cost in promise.costs),
            *(f"  not {route}: {reason}" for route, reason in self.better.items()),
        ]
        return "\n".join(lines)

    def as_json(self) -> dict:
        """The plan as plain values, for `--json`, manifest and card."""
        return {
            "route": self.route,
            **{key: value for key, value in asdict(self.promise).items() if key != "costs"},
            "reasons": list(self.promise.costs),
            "better": dict(self.better),
            "prompt_gate": self.gate,
            "weights_bytes": self.cost.size_bytes,
            "base_weights_bytes": self.base.size_bytes,
            "flops_per_token": self.cost.flops_per_token,
            "base_flops_per_token": self.base.flops_per_token,
        }


def plan(peft_model, route: str = "auto", *, gate: str = "auto", processor=None, without_heads: bool = False) -> Plan:
    """Route, host, exactness, size and speed that an export of this model would have; writes nothing that stays.

    "auto" takes the first of dense, native, code and adapter that can hold the model. A route without a prompt gate is
    never taken for a fitted one unless `gate="on"` says that it may ship open (our choice: exactness first). Nor is one
    without a place for the heads that answers need: those have "code" and "adapter" alone.

    Args:
        peft_model: what `get_peft_model(vlm, LynxConfig(...))` returned.
        route: one of `ROUTES`.
        gate: "auto" for the prompt gate as trained, "on" for a model whose gate is open on every prompt.
        processor: the base's; only needed for a model with heads that answers need.
        without_heads: leave such heads behind; the plan says what is lost.

    Raises:
        ConfigError: the route or the gate is unknown.
        ExportError: the model cannot take the route that was asked for; the message has the reason and the next best.
    """
    with tempfile.TemporaryDirectory() as folder:
        return prepare(read(peft_model, processor, without_heads=without_heads), route, gate, Path(folder))[0]


def choose(
    adapted: Adapted, route: str = "auto", gate: str = "auto", failed: dict[str, str] | None = None
) -> tuple[str, Promise, dict[str, str]]:
    """The first route that can take this model by its own word, its promise, and why the better ones cannot.

    Builds nothing. `failed` names routes that said they could, and why they could not after all.

    Raises:
        ConfigError, ExportError: as `plan`.
    """
    _check(route, ROUTES, "export route")
    _check(gate, GATES, "gate of an export")
    better: dict[str, str] = {}
    for name in ORDER if route not in BY_NAME else (*ORDER, route):
        reason = (failed or {}).get(name) or _refusal(adapted, name, gate, chooses=route == "auto")
        if reason is None and route in ("auto", name):
            promise = _module(name).promise(_with_gate(adapted, name, gate))
            if name != "adapter" and adapted.rounded_buffers and promise.exactness == "bitwise":
                promise = replace(promise, exactness="rounding", bound=ROUNDING)
            return name, replace(promise, costs=promise.costs + _notes(adapted, name)), better
        if reason is not None and (name == route or (route == "auto" and adapted.quantised and name == "code")):
            raise _refused(adapted, name, gate, reason)
        better[name] = reason or f"possible, but route={route!r} was asked for"
    raise AssertionError("the adapter alone takes any model")


def prepare(
    adapted: Adapted, route: str, gate: str, folder: Path
) -> tuple[Plan, Adapted, Built | None, nn.Module | None]:
    """The plan and, for all routes but "adapter", what will be written: built once, measured, and handed on.

    Unchanged tensors are the live ones, so only folded and new ones take memory. Code that the route brings lies in
    `folder` afterwards. What looked possible and then does not fit sends "auto" to its next route.

    Returns:
        plan; `adapted` with the gate it is exported with; tensors and model to be written (None for the adapter).

    Raises:
        ConfigError, ExportError: as `plan`.
    """
    failed: dict[str, str] = {}
    while True:
        chosen, promise, better = choose(adapted, route, gate, failed)
        shipped = _with_gate(adapted, chosen, gate)
        built = model = None
        if chosen == "adapter":
            cost = cost_of_live(shipped)
        else:
            try:
                built = _module(chosen).build(shipped, folder)
                model = instantiate(built) if chosen != "vllm" else None
            except ExportError as problem:
                if route != "auto":
                    raise
                failed[chosen] = f"{problem.message}: {problem.why}"
                _empty(folder)
                continue
            cost = cost_of_tensors(built, shipped) if model is None else cost_of(model, shipped)
        ships = "on" if chosen in ALWAYS_ON else shipped.gate
        return Plan(chosen, promise, cost, cost_of_base(shipped), better, ships), shipped, built, model


def next_best(adapted: Adapted, route: str, gate: str = "auto") -> str:
    """The route to try where `route` failed: the next in order that does not refuse."""
    names = list(ORDER)
    after = names[names.index(route) + 1 :] if route in names else names
    return next((name for name in after if _refusal(adapted, name, gate, chooses=True) is None), "adapter")


def _module(route: str) -> ModuleType:
    return (ORDER | BY_NAME)[route]


def _with_gate(adapted: Adapted, route: str, gate: str) -> Adapted:
    # Routes that have no gate are told of the fitted one, so that they can say what becomes of it.
    return replace(adapted, gate="on") if gate == "on" and route not in ALWAYS_ON else adapted


def _refusal(adapted: Adapted, route: str, gate: str, *, chooses: bool = False) -> str | None:
    """Why a model cannot take a route; with `chooses`, also why nobody would choose it who has not asked for it."""
    reason = _module(route).refusal(adapted)
    if reason is None and route in ALWAYS_ON and adapted.gate == "auto" and gate != "on":
        return "it has no place for the fitted per-prompt gate, and would ship with it open on every prompt"
    if reason is None and route in ALWAYS_ON and adapted.heads and chooses:
        return f"it has no place for what answers need beside the decoder: {'; '.join(code_heads.lost(adapted.heads))}"
    return reason


def _refused(adapted: Adapted, route: str, gate: str, reason: str) -> ExportError:
    fix = f"export with route={next_best(adapted, route, gate)!r}"
    if adapted.quantised:
        fix = "export with route='adapter', or load the base dequantised (on the command line: --dequantise)"
    elif _module(route).refusal(adapted) is None:
        fix += ", which keeps the gate, or with gate='on' to ship it open (on the command line: --gate on)"
    elif route == "code" and code_heads.refusal(adapted) is not None:
        fix += ", or leave its heads behind with without_heads=True (on the command line: --without-heads)"
    kind = adapted.base.config.model_type
    return ExportError(f"route {route!r} cannot take this {kind} model", why=reason, fix=fix)


def _notes(adapted: Adapted, route: str) -> tuple[str, ...]:
    """What is to be known whatever the route thinks of it."""
    left = adapted.left | (adapted.heads if route in ALWAYS_ON else {})
    notes: tuple[str, ...] = tuple(code_heads.lost(left))
    if route != "adapter" and adapted.gate != adapted.config.prompt_gate:
        notes += ("prompt_gate='auto' was never fitted, so it is open for every prompt here and ships on",)
    if route != "adapter" and adapted.rounded_buffers:
        notes += (
            f"a cast rounded the live model's {adapted.rounded_buffers[0]}, and a reloaded model's is not: logits will "
            "differ a little; load the base with dtype=... instead of casting it",
        )
    return notes


def _beside(number: int, base: int, unit: str) -> str:
    times = f"{number / base:.2f} times " if base else ""
    return f"{readable(number, unit)}, {times}the base's {readable(base, unit)}"


def _check(value: str, known: Iterable[str], what: str) -> None:
    if value not in known:
        raise ConfigError(
            f"no {what} {value!r}", why=f"known are {', '.join(known)}", fix=f"nearest: {nearest(value, known)}"
        )


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
