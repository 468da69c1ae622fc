"""Finding the attention projections that lie beside given feed-forward blocks, by structure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import nn

from lynx_moe.families.find import FfnBlock, is_attention, unwrapped


def attention_projections(model: nn.Module, blocks: Sequence[FfnBlock]) -> list[str]:
    """Names of the linear maps inside the attention of the decoder layers that hold `blocks`, in model order.

    Queries, keys, values and output, fused or factored, whatever a family calls them; not state-space mixers, and
    nothing of layers without attention.
    """
    names = []
    for block in blocks:
        layer_name = block.name.rpartition(".")[0]
        for child_name, child in model.get_submodule(layer_name).named_children():
            if is_attention(child):
                names += [f"{layer_name}.{child_name}.{name}" for name in _linear_names(child)]
    return names


def _linear_names(attention: nn.Module) -> Iterator[str]:
    for name, module in attention.named_modules():
        # A wrapped projection goes by its wrapper's name; the base's module inside it is not listed again.
        if not name.endswith("base_layer") and ".lynx_" not in name and hasattr(unwrapped(module), "in_features"):
            yield name
