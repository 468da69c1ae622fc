"""Finding the text decoder's feed-forward positions in any vision-language model, by structure, never by name.

The text decoder is the list of layers nearest to the token embedding; a layer's FFN is its one child that maps the
model width to itself through wider linear maps and is not attention. A whole MoE block is one FFN position. Vision
towers have patch embeddings, not token embeddings, so they are never reached.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from torch import nn

from lynx_moe.errors import ConfigError, FamilyError, nearest

LAYER_CHOICES = ("every_other", "all", "upper_half")
_ATTENTION_ARGUMENTS = {"attention_mask", "position_embeddings", "past_key_values", "past_key_value"}
_PICTURE_ARGUMENT = "image_hidden_states"
_ACTIVATION_NAMES = ("act_fn", "act", "activation_fn", "activation", "hidden_act")


class FfnBlock(NamedTuple):
    """A feed-forward position: the module's full name, and which decoder layer it is in."""

    name: str
    layer: int


@dataclass(frozen=True, kw_only=True)
class FfnShape:
    """What new experts need to know of the frozen ones: model width, FFN width (of one expert if MoE), activation."""

    width: int
    ffn_width: int
    is_moe: bool
    activation: Callable | None


def find_ffn_blocks(model: nn.Module) -> list[FfnBlock]:
    """Every feed-forward position of the text decoder, in layer order; none of the vision tower.

    Decoder layers without one (a pure state-space layer) are skipped, but counted in the layer index.

    Raises:
        FamilyError: the model has no token embedding, no decoder layers, or no layer with one clear FFN.
    """
    _, layers = find_decoder_layers(model)
    return [FfnBlock(name, index) for index, (name, _) in layers.items()]


def find_decoder_layers(model: nn.Module) -> tuple[int, dict[int, tuple[str, nn.Module]]]:
    """Number of decoder layers, and layer index to (name, module) of its FFN."""
    embedding_name, width = _token_embedding(model)
    parts = embedding_name.split(".")
    for depth in range(len(parts) - 1, -1, -1):
        # From the embedding outwards: the first ancestor with any list of modules below it is the text decoder, and
        # the search ends there. Further out it would meet the vision tower.
        ancestor_name = ".".join(parts[:depth])
        ancestor = model.get_submodule(ancestor_name)
        if not any(isinstance(m, nn.ModuleList) and len(m) for m in ancestor.modules()):
            continue
        found = sorted(_layer_lists(ancestor, ancestor_name, width), key=lambda item: item[0].count("."))
        # A vision tower nested inside the text model is deeper than the decoder's own layers.
        found = [item for item in found if item[0].count(".") == found[0][0].count(".")]
        # Layers of cross-attention to the picture that are slipped in between (idefics) lie in a list of their own.
        found = [item for item in found if not _looks_at_pictures(model.get_submodule(item[0])[0])] or found
        if len(found) > 1:
            raise FamilyError(
                f"{type(model).__name__} has several lists of decoder layers: {[name for name, _ in found]}",
                why="more than one list of layers with FFNs is equally near to the token embedding",
                fix="pass target_modules=[...] with the full names of the FFN modules to wrap",
            )
        if found:
            list_name, ffns = found[0]
            return len(model.get_submodule(list_name)), ffns
        break
    raise FamilyError(
        f"no feed-forward block found in {type(model).__name__}",
        why=f"no layer near {embedding_name!r} has one child that maps width {width} to itself through linears",
        fix="pass target_modules=[...] with the full names of the FFN modules to wrap",
    )


def select_layers(num_layers: int, choice: str | list[int]) -> set[int]:
    """The decoder layers meant by "every_other" (0, 2, 4, ...), "all", "upper_half", or a list of indices.

    >>> sorted(select_layers(5, "every_other")), sorted(select_layers(5, "upper_half")), sorted(select_layers(5, [-1]))
    ([0, 2, 4], [2, 3, 4], [4])

    Raises:
        ConfigError: an unknown word, or an index the model does not have.
    """
    if choice == "every_other":
        return set(range(0, num_layers, 2))
    if choice == "all":
        return set(range(num_layers))
    if choice == "upper_half":
        return set(range(num_layers // 2, num_layers))
    if isinstance(choice, str):
        raise ConfigError(
            f"layers={choice!r} is not known",
            why=f"it is one of {', '.join(LAYER_CHOICES)}, or a list of layer indices",
            fix=f"did you mean {nearest(choice, LAYER_CHOICES)[0]!r}?",
        )
    outside = [i for i in choice if not -num_layers <= i < num_layers]
    if outside:
        raise ConfigError(
            f"layers={list(choice)} names layers {outside}",
            why=f"the decoder has {num_layers} layers",
            fix=f"use indices from 0 to {num_layers - 1}",
        )
    return {i % num_layers for i in choice}


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
    listed = next((m for n, m in module.named_modules() if isinstance(m, nn.ModuleList) and len(m)), None)
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


def _token_embedding(model: nn.Module) -> tuple[str, int]:
    get = getattr(model, "get_input_embeddings", None)
    try:
        embedding = get() if get is not None else None
    except NotImplementedError:
        embedding = None
    weight = getattr(embedding, "weight", None)
    if weight is not None and weight.ndim == 2:  # some models answer with their patch convolution
        for name, module in model.named_modules():
            if module is embedding:
                return name, getattr(embedding, "embedding_dim", weight.shape[-1])
    raise FamilyError(
        f"{type(model).__name__} has no token embedding",
        why="the text decoder is found from what get_input_embeddings() returns",
        fix="pass a transformers model with a text decoder, or target_modules=[...]",
    )


def _layer_lists(
    ancestor: nn.Module, ancestor_name: str, width: int
) -> Iterator[tuple[str, dict[int, tuple[str, nn.Module]]]]:
    """Outermost module lists below `ancestor` whose items hold attention-like and FFN children."""
    taken: list[str] = []
    for name, module in ancestor.named_modules():
        if not isinstance(module, nn.ModuleList) or any(name.startswith(t + ".") for t in taken):
            continue
        full = f"{ancestor_name}.{name}".strip(".")
        ffns = {}
        for index, layer in enumerate(module):
            child = _ffn_child(layer, width)
            if child is not None:
                ffns[index] = (f"{full}.{index}.{child[0]}", child[1])
        if ffns:
            taken.append(name)
            yield full, ffns


def _looks_at_pictures(layer: nn.Module) -> bool:
    return _PICTURE_ARGUMENT in inspect.signature(layer.forward).parameters


def _ffn_child(layer: nn.Module, width: int) -> tuple[str, nn.Module] | None:
    candidates = [(name, child) for name, child in layer.named_children() if _is_ffn(child, width)]
    if len(candidates) > 1:
        # Layers that add a dense FFN beside an MoE block (granitemoeshared) are wrapped at the MoE block.
        candidates = [c for c in candidates if describe_ffn(unwrapped(c[1])).is_moe] or candidates[:1]
    return candidates[0] if candidates else None


def _is_ffn(module: nn.Module, width: int) -> bool:
    module = unwrapped(module)
    if is_attention(module) or _ATTENTION_ARGUMENTS & set(inspect.signature(module.forward).parameters):
        return False
    if any(isinstance(m, nn.Conv1d | nn.Conv2d | nn.Conv3d) for m in module.modules()):
        return False  # state-space mixers and patch embeddings
    try:
        return describe_ffn(module).width == width
    except FamilyError:
        return False


def is_attention(module: nn.Module) -> bool:
    """Whether a decoder layer's child is attention in the usual sense: no state-space mixer, no linear recurrence."""
    name = type(module).__name__.lower()
    return "attention" in name or "attn" in name


def unwrapped(module: nn.Module) -> nn.Module:
    """The base's own module, also when adapters already wrap it."""
    while hasattr(module, "base_layer"):
        module = module.base_layer
    return module


def _linears(module: nn.Module) -> Iterator[nn.Module]:
    """Linear-like modules in definition order: also quantised ones, which are no nn.Linear but say their features."""
    for m in module.modules():
        if hasattr(m, "in_features") and hasattr(m, "out_features") and not hasattr(m, "base_layer"):
            yield m


def _stacked_experts(module: nn.Module) -> tuple[int, int] | None:
    """(model width, expert width) of stacked expert parameters, transformers 5's `(E, D, F)` or transposed."""
    for owner in module.modules():
        parameters = {n: tuple(p.shape) for n, p in owner.named_parameters(recurse=False) if p.ndim == 3}
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
    own = [m for m in module.children() if hasattr(m, "in_features")]
    back = {(m.in_features, m.out_features) for m in own}
    return next((m.in_features for m in own if m.out_features == inner and (inner, m.in_features) in back), inner)


def _activation(module: nn.Module) -> Callable | None:
    for owner in module.modules():
        for name in _ACTIVATION_NAMES:
            found = getattr(owner, name, None)
            if callable(found):
                return found
    return None
