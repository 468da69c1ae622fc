"""Finding the text decoder's feed-forward positions in any vision-language model, by structure, never by name.

The text decoder is the list of layers nearest to the token embedding. Vision towers have patch embeddings, not token
embeddings, so they are never reached; of an encoder and a decoder that are equally near, the decoder is meant. What an
FFN is inside a layer, `lynx_moe.families.ffn` says.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from torch import nn

from lynx_moe.errors import ConfigError, FamilyError, nearest
from lynx_moe.families.ffn import FfnPlace, ffn_of, frozen_ffn, whole_shape

LAYER_CHOICES = ("every_other", "all", "upper_half")
_USUAL_NAMES = ("mlp", "ffn", "feed_forward", "feedforward", "fc1", "fc2", "dense_h_to_4h", "block_sparse_moe", "moe")
_PICTURE_ARGUMENT = "image_hidden_states"


class FfnBlock(NamedTuple):
    """A feed-forward position of the text decoder, by full names of modules.

    Attributes:
        name: the module whose output is the FFN's: the FFN itself, or its last linear map where the layer spreads it.
        layer: index of the decoder layer.
        inside: the decoder layer.
        reads: the module whose input is the FFN's, where that is not `name` itself.
    """

    name: str
    layer: int
    inside: str
    reads: str | None = None

    def frozen(self, model: nn.Module) -> nn.Module:
        """The base's own FFN, whole."""
        cut = len(self.inside) + 1
        place = FfnPlace(self.name[cut:], self.reads and self.reads[cut:])
        return frozen_ffn(model.get_submodule(self.inside), place)


def find_ffn_blocks(model: nn.Module) -> list[FfnBlock]:
    """Every feed-forward position of the text decoder, in layer order; none of the vision tower.

    Decoder layers without one (a pure state-space layer) are skipped, but counted in the layer index.

    Raises:
        FamilyError: the model has no token embedding, no decoder layers, or no layer with one clear FFN.
    """
    return find_decoder_layers(model)[1]


def find_decoder_layers(model: nn.Module) -> tuple[int, list[FfnBlock]]:
    """Number of decoder layers, and the feed-forward positions among them."""
    embedding_name, width = _token_embedding(model)
    looked_at: list[str] = []
    parts = embedding_name.split(".")
    for depth in range(len(parts) - 1, -1, -1):
        # From the embedding outwards: the first ancestor with any list of modules below it is the text decoder, and
        # the search ends there. Further out it would meet the vision tower.
        ancestor_name = ".".join(parts[:depth])
        ancestor = model.get_submodule(ancestor_name)
        lists = [n for n, m in ancestor.named_modules() if isinstance(m, nn.ModuleList) and len(m)]
        if not lists:
            continue
        looked_at = [f"{ancestor_name}.{name}".strip(".") for name in lists]
        found = sorted(_layer_lists(ancestor, ancestor_name, width), key=lambda item: item[0].count("."))
        # A vision tower nested inside the text model is deeper than the decoder's own layers.
        found = [item for item in found if item[0].count(".") == found[0][0].count(".")]
        # Layers of cross-attention to the picture that are slipped in between (idefics) lie in a list of their own.
        found = [item for item in found if not _looks_at_pictures(model.get_submodule(item[0])[0])] or found
        if len(found) > 1:
            found = [item for item in found if _is_of_the_decoder(model, item[0])] or found
        if len(found) > 1:
            raise FamilyError(
                f"{type(model).__name__} has several lists of decoder layers: {[name for name, _ in found]}",
                why="more than one list of layers with FFNs is equally near to the token embedding",
                fix="pass target_modules=[...] with the full names of the FFN modules to wrap",
            )
        if found:
            list_name, blocks = found[0]
            return len(model.get_submodule(list_name)), blocks
        break
    raise FamilyError(
        f"no feed-forward block found in {type(model).__name__}",
        why=f"no layer near {embedding_name!r} maps width {width} to itself through linear maps outside attention; "
        f"{_seen_in(model, looked_at)}",
        fix=f"pass target_modules=[...] with the full names of the FFN modules to wrap{_nearest_to_an_ffn(model)}",
    )


def select_layers(having: Sequence[int], num_layers: int, choice: str | list[int]) -> set[int]:
    """The decoder layers meant by a choice, of those that have a feed-forward position.

    Args:
        having: indices of the layers with a feed-forward position, ascending: in hybrid decoders not all.
        choice: "every_other" (the first of them, the third, ...), "all", "upper_half" (of the depth), or indices, where
            negative ones count from the end.

    >>> [sorted(select_layers(range(5), 5, choice)) for choice in ("every_other", "upper_half", [-1])]
    [[0, 2, 4], [2, 3, 4], [4]]
    >>> sorted(select_layers([1, 3, 5], 6, "every_other"))
    [1, 5]

    Raises:
        ConfigError: an unknown word, or an index the model does not have.
    """
    if choice == "every_other":
        return set(having[::2])
    if choice == "all":
        return set(having)
    if choice == "upper_half":
        return {layer for layer in having if layer >= num_layers // 2}
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
    without = sorted({i % num_layers for i in choice} - set(having))
    if without:
        raise ConfigError(
            f"layers={list(choice)} names layers {without}, which have no feed-forward position",
            why="in this decoder some layers hold only a mixer or attention",
            fix=f"choose among {list(having)}",
        )
    return {i % num_layers for i in choice}


def _token_embedding(model: nn.Module) -> tuple[str, int]:
    decoder = _decoder(model)
    # An encoder may have words of its own (t5gemma2): of two text models, the one that answers is meant.
    two_sided = getattr(getattr(model, "config", None), "is_encoder_decoder", False)
    for owner in (decoder, model) if two_sided else (model, decoder):
        get = getattr(owner, "get_input_embeddings", None)
        try:
            embedding = get() if get is not None else None
        except NotImplementedError:
            embedding = None
        weight = getattr(embedding, "weight", None)
        if weight is not None and len(whole_shape(weight)) == 2:  # some models answer with their patch convolution
            for name, module in model.named_modules():
                if module is embedding:
                    return name, getattr(embedding, "embedding_dim", whole_shape(weight)[-1])
    raise FamilyError(
        f"{type(model).__name__} has no token embedding",
        why="the text decoder is found from what get_input_embeddings() returns; looked at the model itself"
        + (" and at its get_decoder()" if _decoder(model) is not None else "")
        + f", whose parts are {_few([f'{name} ({type(m).__name__})' for name, m in model.named_children()])}",
        fix="pass a transformers model with a text decoder, or target_modules=[...] with full names of FFN modules"
        + _nearest_to_an_ffn(model),
    )


def _few(names: list[str], limit: int = 6) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "") or "none"


def _seen_in(model: nn.Module, lists: list[str]) -> str:
    """What the lists of layers hold, for somebody who knows the model and not our search."""
    if not lists:
        return "there is no list of layers around it"
    seen = []
    for name in lists[:2]:
        first = model.get_submodule(f"{name}.0")
        inside = [f"{child} ({type(m).__name__})" for child, m in first.named_children()]
        seen.append(f"{name}.0 ({type(first).__name__}) holds {_few(inside)}")
    return f"looked at {_few(lists, 3)}: {'; '.join(seen)}"


def _nearest_to_an_ffn(model: nn.Module) -> str:
    """Modules that are called as FFNs usually are, as the end of a sentence; they may well be the vision tower's."""
    ends = {name: name.rpartition(".")[2] for name, _ in model.named_modules() if name}
    close = [name for name, end in ends.items() if end in _USUAL_NAMES]
    close = close or [n for n, end in ends.items() if difflib.get_close_matches(end, _USUAL_NAMES, 1, 0.5)]
    return f"; nearest by name: {_few(close, 3)}" if close else ""


def _decoder(model: nn.Module) -> nn.Module | None:
    """What the model calls its decoder, and that one its own, to the innermost; None where nothing is called so."""
    found = model
    while (get := getattr(found, "get_decoder", None)) is not None:
        inner = get()
        if inner is None or inner is found:
            break
        found = inner
    return None if found is model else found


def _is_of_the_decoder(model: nn.Module, list_name: str) -> bool:
    decoder = _decoder(model)
    return decoder is not None and any(m is model.get_submodule(list_name) for m in decoder.modules())


def _layer_lists(ancestor: nn.Module, ancestor_name: str, width: int) -> Iterator[tuple[str, list[FfnBlock]]]:
    """Outermost module lists below `ancestor` whose items hold FFNs."""
    taken: list[str] = []
    for name, module in ancestor.named_modules():
        if not isinstance(module, nn.ModuleList) or any(name.startswith(t + ".") for t in taken):
            continue
        full = f"{ancestor_name}.{name}".strip(".")
        blocks = []
        for index, layer in enumerate(module):
            place, inside = ffn_of(layer, width), f"{full}.{index}"
            if place is not None:
                blocks.append(
                    FfnBlock(f"{inside}.{place.path}", index, inside, place.reads and f"{inside}.{place.reads}")
                )
        if blocks:
            taken.append(name)
            yield full, blocks


def _looks_at_pictures(layer: nn.Module) -> bool:
    return _PICTURE_ARGUMENT in inspect.signature(layer.forward).parameters
