"""A tuner for ms-swift (`swift.tuner_plugin`, as in ms-swift 4.6): its trainer and data formats, our adapter.

The user's own plug-in file of three lines registers it:

    from swift.tuner_plugin import tuners_map
    from lynx_moe.integrations.ms_swift import lynx_tuner
    tuners_map["lynx"] = lynx_tuner(num_experts=8, mix="token")

and `swift sft --external_plugins that_file.py --tuner_type lynx ...` trains with it. ms-swift asks of a tuner three
static methods and nothing else, so it need not be imported here.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from lynx_moe.adapter import LynxConfig, PromptGateHead, prompt_gate_head
from lynx_moe.adapter.attaching import attach_adapter
from lynx_moe.adapter.loading import load_adapter
from lynx_moe.errors import CheckpointError


def lynx_tuner(**settings: Any) -> type:
    """The tuner class for `LynxConfig(**settings)`.

    Raises:
        ConfigError: a setting that nothing can honour; here, and not when training starts.
    """
    LynxConfig(**settings)

    class LynxTuner:
        """What ms-swift calls: to wrap a model, to save it, and to open what was saved."""

        @staticmethod
        def prepare_model(args: Any, model: nn.Module) -> nn.Module:
            return attach_adapter(model, LynxConfig(**settings))

        @staticmethod
        def save_pretrained(
            model: nn.Module,
            save_directory: str,
            state_dict: dict[str, Tensor] | None = None,
            safe_serialization: bool = True,
            **kwargs: Any,
        ) -> None:
            if state_dict is not None:
                state_dict = {**_head_state(model), **state_dict}
            kwargs.setdefault("selected_adapters", ["default"])
            model.save_pretrained(
                save_directory, state_dict=state_dict, safe_serialization=safe_serialization, **kwargs
            )

        @staticmethod
        def from_pretrained(model: nn.Module, model_id: str, **kwargs: Any) -> nn.Module:
            return load_adapter(model, model_id, **kwargs)

    return LynxTuner


def _head_state(model: nn.Module) -> dict[str, Tensor]:
    """The prompt gate's head by full names: it is fitted and not trained, so a state of trainable tensors lacks it.

    Raises:
        CheckpointError: the head was fitted and ZeRO-3 holds it in parts, which one rank alone cannot put together.
    """
    head = prompt_gate_head(model, "default")
    prefix = next(name for name, module in model.named_modules() if module is head)
    if any(hasattr(p, "ds_id") for p in head.parameters()):
        if bool(head.fitted):
            raise CheckpointError(
                "the fitted prompt gate's head cannot be saved",
                why="ZeRO-3 holds it in parts, and the trainer hands over the trainable tensors only",
                fix="fit the prompt gate after training, or train with ZeRO-2",
            )
        head = PromptGateHead(head.hidden.in_features)
    return {f"{prefix}.{name}": tensor for name, tensor in head.state_dict().items()}
