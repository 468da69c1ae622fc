"""Finding the attention projections of a text decoder, by structure, never by name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import nn

from lynx_moe.families.ffn import is_attention, of_the_base
from lynx_moe.families.find import FfnBlock


def attention_projections(model: nn.Module, blocks: Sequence[FfnBlock]) -> list[str]:
    """Names of the linear maps inside the attention of every decoder layer from the lowest of `blocks` up, in order.

    Queries, keys, values and output, fused or factored, whatever a family calls them, also of attention to an encoder
    or to the picture; not state-space mixers. From the lowest block up and not only beside the blocks (our choice): in
    hybrid decoders attention may lie in just those layers that have no block, and backward passes there anyway.
    """
    if not blocks:
        return []
    lowest = min(blocks, key=lambda block: block.layer)
    layers_name = lowest.inside.rpartition(".")[0]
    return [
        f"{layers_name}.{index}.{name}"
        for index, layer in enumerate(model.get_submodule(layers_name))
        if index >= lowest.layer
        for name in _projections(layer)
    ]


def _projections(layer: nn.Module) -> Iterator[str]:
    attention: list[str] = []
    for name, module in of_the_base(layer):
        if is_attention(module):
            attention.append(f"{name}.")
        # Indexers (DeepSeek's sparse attention) choose which keys are read, without gradient: nothing there learns.
        chooses = any("indexer" in part for part in name.split("."))
        if name.startswith(tuple(attention)) and not chooses and hasattr(module, "in_features"):
            yield name
