"""Which field of a model's config says how wide its FFNs are: by trying, never by name."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import nn

Shapes = dict[str, torch.Size]

# A wrong field costs a model on the meta device, so those that are usually right come first.
_LIKELY = ("intermediate_size", "ffn_dim", "decoder_ffn_dim", "d_ff", "n_inner", "ffn_hidden_size")


@dataclass(frozen=True)
class WidthField:
    """A field of a config that holds one FFN width, or a list with one per layer.

    Attributes:
        path: names of the nested configs that lead to it, from the outermost.
        value: what it becomes.
    """

    path: tuple[str, ...]
    name: str
    value: int | list[int]

    def set(self, config) -> None:
        for part in self.path:
            config = getattr(config, part)
        setattr(config, self.name, self.value)

    def __str__(self) -> str:
        return ".".join((*self.path, self.name))


def wider_configs(
    base: nn.Module, before: Mapping[int, int], after: Mapping[int, int]
) -> Iterator[tuple[WidthField, Shapes]]:
    """Fields of `base.config` that hold the width, and the shapes of all tensors of a model in which they are changed.

    A field with one number becomes the largest of `after`, one with a list per layer what `after` says of each. Whether
    the shapes are those that are wanted is for the caller to see: a field may size other things, or nothing.

    Args:
        base: a transformers model.
        before, after: decoder layer to the width of its FFN, now and as wanted; the same layers.
    """
    for field in _fields(base.config, before, after):
        config = copy.deepcopy(base.config)
        # A config may refuse a value, a model a config: then this field is not the one.
        with contextlib.suppress(Exception):
            field.set(config)
            with torch.device("meta"):
                model = type(base)(config)
            yield field, {name: tensor.shape for name, tensor in model.state_dict().items()}


def _fields(config, before: Mapping[int, int], after: Mapping[int, int]) -> list[WidthField]:
    widest, widths = max(after.values()), set(before.values())
    found = []
    for path, inner in _nested(config):
        for name, value in vars(inner).items():
            if type(value) is int and widths == {value}:
                found.append(WidthField(path, name, widest))
            elif isinstance(value, list) and all(_at(value, layer) == width for layer, width in before.items()):
                found.append(WidthField(path, name, [after.get(layer, width) for layer, width in enumerate(value)]))
            elif value is None and name in _LIKELY:
                found.append(WidthField(path, name, widest))
    return sorted(found, key=lambda field: field.name not in _LIKELY)


def _nested(config, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], object]]:
    """The text decoder's config first: a vision tower may be as wide."""
    inner = {name: value for name, value in vars(config).items() if hasattr(value, "to_dict")}
    text = config.get_text_config() if hasattr(config, "get_text_config") else None
    for name in sorted(inner, key=lambda name: inner[name] is not text):
        if inner[name] is text:
            yield from _nested(text, (*path, name))
    yield path, config
    for name, value in inner.items():
        if value is not text:
            yield from _nested(value, (*path, name))


def _at(values: list, layer: int) -> int | None:
    return values[layer] if layer < len(values) else None
