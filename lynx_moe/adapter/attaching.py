"""Wrapping a model with an adapter, for the rest of the library: only this package imports PEFT."""

from __future__ import annotations

from peft import PeftModel, get_peft_model
from torch import nn

from lynx_moe.adapter.config import LynxConfig


def attach_adapter(model: nn.Module, config: LynxConfig, adapter_name: str = "default") -> PeftModel:
    """`model` with a fresh adapter in its blocks: exactly `peft.get_peft_model`.

    Raises:
        FamilyError: the model has no feed-forward block that the config asks for.
    """
    return get_peft_model(model, config, adapter_name=adapter_name)
