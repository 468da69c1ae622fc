"""Wrapping a model with an adapter, for the rest of the library: only this package imports PEFT."""

from __future__ import annotations

from collections.abc import Sequence

from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from lynx_moe.adapter.config import LynxConfig


def attach_adapter(model: nn.Module, config: LynxConfig, adapter_name: str = "default") -> PeftModel:
    """`model` with a fresh adapter in its blocks: exactly `peft.get_peft_model`.

    Raises:
        FamilyError: the model has no feed-forward block that the config asks for.
    """
    return get_peft_model(model, config, adapter_name=adapter_name)


def attach_lora(model: nn.Module, rank: int, target_modules: Sequence[str]) -> PeftModel:
    """`model` with a fresh LoRA of `rank` on the named linear maps, scale 2: what others do, to compare with."""
    return get_peft_model(model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=list(target_modules)))
