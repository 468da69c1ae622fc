"""What an adapter remembers of the base it was made for, so that another one is refused by name and not by accident."""

from __future__ import annotations

from typing import Any

from torch import nn

from lynx_moe.adapter.quantised import floating_dtype, quantisation_of
from lynx_moe.errors import CheckpointError, FamilyError
from lynx_moe.families.ffn import describe_ffn
from lynx_moe.families.find import find_decoder_layers

# What must agree for an adapter to mean anything. The vocabulary is not among it: adding tokens keeps the base a base.
MUST_AGREE = ("model_type", "text_model_type", "num_layers", "width", "ffn_widths")
# A hash is one of bytes as they are held: it says something only about a base that is held in the same way.
SAME_BYTES = ("dtype", "quantised")


def identify(model: nn.Module) -> dict[str, Any]:
    """The base's family, shapes and number types, from its structure: no weight is read.

    Training adds "sha256", the digest over all of its tensors.
    """
    config = getattr(model, "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else None
    found = {
        "model_type": getattr(config, "model_type", type(model).__name__),
        "text_model_type": getattr(text, "model_type", None),
        "dtype": str(floating_dtype(model)).removeprefix("torch."),
        "quantised": quantisation_of(model),
    }
    try:
        num_layers, blocks = find_decoder_layers(model)
    except FamilyError:
        return found  # a decoder that only full names of modules reach
    shapes = [describe_ffn(block.frozen(model)) for block in blocks]
    return found | {
        "num_layers": num_layers,
        "width": shapes[0].width,
        "ffn_widths": sorted({shape.ffn_width for shape in shapes}),
    }


def refuse_another_base(made_for: dict[str, Any] | None, model: nn.Module) -> None:
    """Nothing, when an adapter made for the base that `made_for` describes can stand in `model`.

    Raises:
        CheckpointError: family or shapes differ.
    """
    here = identify(model)
    differs = [k for k in MUST_AGREE if made_for and k in made_for and k in here and made_for[k] != here[k]]
    if differs:
        raise CheckpointError(
            f"this adapter was made for {describe(made_for)}, and this base is {describe(here)}",
            why=f"they differ in {', '.join(differs)}; new experts only fit the frozen ones they were trained beside",
            fix="load the base that its adapter_config.json names; for a fresh adapter use a fresh LynxConfig",
        )


def is_held_alike(made_for: dict[str, Any], model: nn.Module) -> bool:
    """Whether the hash of the base in `made_for` can be compared with that of `model`."""
    here = identify(model)
    return all(made_for.get(key) == here[key] for key in SAME_BYTES)


def describe(base: dict[str, Any]) -> str:
    text = f" with a {base['text_model_type']} decoder" if base.get("text_model_type") else ""
    shape = f" of {base['num_layers']} layers {base['width']} wide, FFN {base['ffn_widths']}" if "width" in base else ""
    return f"a {base.get('model_type')}{text}{shape}"
