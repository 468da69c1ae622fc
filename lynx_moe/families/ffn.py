"""What a feed-forward position is inside one decoder layer, and how wide it is: by structure, never by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import nn

from lynx_moe.errors import FamilyError

_ATTENTION_ARGUMENTS = {"attention_mask", "position_embeddings", "past_key_values", "past_key_value"}
_ACTIVATION_NAMES = ("act_fn", "act", "activation_fn", "activation", "hidden_act", "intermediate_act_fn")
_CONVOLUTIONS = nn.Conv1d | nn.Conv2d | nn.Conv3d


@dataclass(frozen=True, kw_only=True)
class FfnShape:
    """What new experts need to know of the frozen ones: model width, FFN width (of one expert if MoE), activation."""

    width: int
    ffn_width: int
    is_moe: bool
    activation: Callable | None


class SplitFfn(nn.Module):
    """A frozen FFN whose linear maps lie in the layer itself (OPT, BART, BERT), looked at as one. Never called."""

    def __init__(self, first: nn.Module, last: nn.Module, activation: Callable | None):
        super().__init__()
        self.first, self.last, self.act = first, last, activation


@dataclass(frozen=True)
class FfnPlace:
    """Where a layer's FFN is, relative to the layer.

    Attributes:
        path: the module whose output is the FFN's.
        reads: the module whose input is the FFN's, where that is another one; None when `path` is the whole FFN.
    """

    path: str
    reads: str | None = None


def ffn_of(layer: nn.Module, width: int) -> FfnPlace | None:
    """The feed-forward position of one decoder layer; None for a layer without (a pure state-space mixer).

    In this order: the one child that maps the model width to itself through wider linear maps and is not attention; the
    same in a list of parts (T5); two linear maps outside attention that are the layer's own (OPT) or hidden in halves
    (BERT).
    """
    for prefix, owner in (("", layer), *((f"{n}.", c) for n, c in layer.named_children() if type(c) is nn.ModuleList)):
        found = [(name, child) for name, child in owner.named_children() if is_ffn(child, width)]
        if len(found) > 1:
            # Layers that add a dense FFN beside an MoE block (granitemoeshared) are wrapped at the MoE block.
            found = [c for c in found if describe_ffn(unwrapped(c[1])).is_moe] or found[:1]
        if found:
            name, child = found[0]
            return FfnPlace(prefix + name + _without_residual(child, width))
    return _split_ffn(layer, width)


def describe_ffn(module: nn.Module) -> FfnShape:
    """Widths and activation of a frozen FFN or MoE block.

    Raises:
        FamilyError: the module is not one.
    """
    experts = _stacked_experts(module)
    activation = _activation(module)
    if experts is not None:
        width = _around_experts(module, experts[0])
        return FfnShape(width=width, ffn_width=experts[1], is_moe=True, activation=activation)
    listed = next((m for _, m in of_the_base(module) if isinstance(m, nn.ModuleList) and len(m)), None)
    if listed is not None:
        one = describe_ffn(listed[0])
        return FfnShape(width=one.width, ffn_width=one.ffn_width, is_moe=True, activation=one.activation)
    linears = list(_linears(module))
    # By what it maps, not by its place: idefics defines down between gate and up.
    down = next((m for m in reversed(linears[1:]) if m.out_features == linears[0].in_features), None)
    if down is None:
        raise FamilyError(
            f"{type(module).__name__} is not a feed-forward block",
            why="a feed-forward block maps the model width to itself through at least two linear layers",
            fix="leave target_modules=None to find the blocks by structure, or name whole FFN or MoE modules",
        )
    return FfnShape(width=down.out_features, ffn_width=down.in_features, is_moe=False, activation=activation)


def frozen_ffn(layer: nn.Module, place: FfnPlace) -> nn.Module:
    """The base's own FFN at `place`, whole, also where adapters already wrap it."""
    last = unwrapped(layer.get_submodule(place.path))
    return last if place.reads is None else SplitFfn(layer.get_submodule(place.reads), last, _activation(layer))


def is_attention(module: nn.Module) -> bool:
    """Whether a part of a decoder layer is attention in the usual sense: no state-space mixer, no linear recurrence."""
    name = type(module).__name__.lower()
    return "attention" in name or "attn" in name


def unwrapped(module: nn.Module) -> nn.Module:
    """The base's own module, also when adapters already wrap it."""
    while hasattr(module, "base_layer"):
        module = module.base_layer
    return module


def whole_shape(parameter: nn.Parameter) -> tuple[int, ...]:
    """A weight's shape, also where DeepSpeed ZeRO-3 has left only a part of it here."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def of_the_base(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """`module.named_modules()` as it would be without adapters.

    A wrapped module goes by its wrapper's name, and what an adapter of any method has put beside it is not there.
    """
    module = unwrapped(module)
    yield prefix, module
    for name, child in module.named_children():
        yield from of_the_base(child, f"{prefix}.{name}" if prefix else name)


def is_ffn(module: nn.Module, width: int) -> bool:
    """Whether a part of a decoder layer is a whole FFN or MoE block of the model's width."""
    module = unwrapped(module)
    if isinstance(module, nn.ModuleList):
        return False  # a list of parts has no forward; the parts are looked at one by one
    if is_attention(module) or _ATTENTION_ARGUMENTS & set(inspect.signature(module.forward).parameters):
        return False
    if _convolves(module):
        return False
    try:
        return describe_ffn(module).width == width
    except FamilyError:
        return False


def _without_residual(module: nn.Module, width: int) -> str:
    """Path from a part that only puts norm and residual around an FFN (T5LayerFF) to the FFN; "" when it is one."""
    children = dict(unwrapped(module).named_children())
    weighty = [(name, child) for name, child in children.items() if any(True for _ in _linears(child))]
    has_norm = any("norm" in type(child).__name__.lower() for child in children.values())
    if has_norm and len(weighty) == 1 and is_ffn(weighty[0][1], width):
        return f".{weighty[0][0]}"
    return ""


def _split_ffn(layer: nn.Module, width: int) -> FfnPlace | None:
    linears = []
    for name, child in unwrapped(layer).named_children():
        if not is_attention(unwrapped(child)) and not _convolves(child):
            linears += [(n, m) for n, m in of_the_base(child, name) if _is_linear(m)]
    if len(linears) != 2:
        return None
    (first_name, first), (last_name, last) = linears
    if first.in_features == last.out_features == width and first.out_features == last.in_features != width:
        return FfnPlace(last_name, first_name)
    return None


def _convolves(module: nn.Module) -> bool:
    """Whether it is a state-space mixer or a patch embedding."""
    return any(isinstance(m, _CONVOLUTIONS) for _, m in of_the_base(module))


def _is_linear(module: nn.Module) -> bool:
    """Also quantised ones, which are no nn.Linear but say their features."""
    return hasattr(module, "in_features") and hasattr(module, "out_features")


def _linears(module: nn.Module) -> Iterator[nn.Module]:
    """Linear-like modules of the base in definition order."""
    return (m for _, m in of_the_base(module) if _is_linear(m))


def _stacked_experts(module: nn.Module) -> tuple[int, int] | None:
    """(model width, expert width) of stacked expert parameters, transformers 5's `(E, D, F)` or transposed."""
    for _, owner in of_the_base(module):
        parameters = {n: s for n, p in owner.named_parameters(recurse=False) if len(s := whole_shape(p)) == 3}
        down = next((s for n, s in parameters.items() if "down" in n or n in ("w2", "output_linear")), None)
        up = next((s for n, s in parameters.items() if "up" in n or n in ("w1", "input_linear")), None)
        if down is None or up is None:
            continue
        # One dimension of `down` is the model width, which `up` has too; the other is the expert width, which `up` has
        # once, or twice when gate and up are fused. Square experts fit both ways round, and the answer is the same.
        for width, expert_width in (down[1:], down[:0:-1]):
            if sorted(up[1:]) in (sorted((width, expert_width)), sorted((width, 2 * expert_width))):
                return width, expert_width
    return None


def _around_experts(module: nn.Module, inner: int) -> int:
    """The model width of a MoE block whose experts are `inner` wide: less, where the block projects down and up again.

    Only its own projections count: a shared expert may happen to map the same widths.
    """
    own = [unwrapped(m) for m in module.children() if _is_linear(unwrapped(m))]
    back = {(m.in_features, m.out_features) for m in own}
    return next((m.in_features for m in own if m.out_features == inner and (inner, m.in_features) in back), inner)


def _activation(module: nn.Module) -> Callable | None:
    for _, owner in of_the_base(module):
        for name in _ACTIVATION_NAMES:
            found = getattr(owner, name, None)
            if callable(found) and not _reads_two(found):
                return found
    return None


def _reads_two(activation: Callable) -> bool:
    """Whether it is a gate of its own, that takes both halves (inkling2) and so is no function of the first."""
    return isinstance(activation, nn.Module) and len(inspect.signature(activation.forward).parameters) != 1


def asks_its_class(layer: nn.Module, child: str) -> bool:
    """Whether a decoder layer's forward looks at the class of its `child`, to know how to call it (ernie4_5_vl_moe)."""
    try:
        return f"isinstance(self.{child}," in inspect.getsource(type(layer).forward)
    except (OSError, TypeError):
        return False
