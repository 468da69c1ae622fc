"""Wrapping a model with an adapter, ours or one to compare with, for the rest of the library: only this package imports
PEFT.
"""

from __future__ import annotations

from collections.abc import Sequence

from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils.constants import DUMMY_TARGET_MODULES
from torch import nn

from lynx_moe.adapter.config import LynxConfig
from lynx_moe.families.find import find_ffn_blocks

COPIES = "modules_to_save"  # PEFT's name for trained copies of whole modules


def attach_adapter(model: nn.Module, config: LynxConfig, adapter_name: str = "default") -> PeftModel:
    """`model` with a fresh adapter in its blocks: exactly `peft.get_peft_model`.

    Raises:
        FamilyError: the model has no feed-forward block that the config asks for.
    """
    return get_peft_model(model, config, adapter_name=adapter_name)


def attach_lora(model: nn.Module, rank: int, target_modules: Sequence[str] | None = None) -> PeftModel:
    """`model` with a fresh LoRA of `rank`, scale 2: what others do, to compare with.

    Args:
        target_modules: linear maps by full name; None for all of the text decoder's layers.

    Raises:
        FamilyError: the text decoder cannot be found.
    """
    targets = decoder_linears(model) if target_modules is None else list(target_modules)
    return get_peft_model(model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets))


def attach_copies(model: nn.Module) -> PeftModel:
    """`model` with a trainable copy of every layer of its text decoder: full fine-tuning that can be taken off again.

    The originals stay, frozen, so the base is still there to compare with; that costs their memory twice.

    Raises:
        FamilyError: the text decoder cannot be found.
    """
    decoder = _decoder(model)
    layers = [f"{decoder}.{name}" for name, _ in model.get_submodule(decoder).named_children()]
    # PEFT trains copies of modules beside an adapter only; the name is its own for an adapter that has no targets.
    return get_peft_model(model, LoraConfig(target_modules=DUMMY_TARGET_MODULES, modules_to_save=layers))


def decoder_linears(model: nn.Module) -> list[str]:
    """Full names of the linear maps in the text decoder's layers.

    Raises:
        FamilyError: the text decoder cannot be found.
    """
    inside = f"{_decoder(model)}."
    return [name for name, module in model.named_modules() if name.startswith(inside) and isinstance(module, nn.Linear)]


def _decoder(model: nn.Module) -> str:
    """The list of the text decoder's layers, by its full name."""
    return find_ffn_blocks(model)[0].inside.rpartition(".")[0]
