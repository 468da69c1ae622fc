"""A tuner for ms-swift (`swift.tuner_plugin`, as in ms-swift 4.6): its trainer and data formats, our adapter.

The user's own plug-in file registers it, and a callback that no run can do without (it says so if it is forgotten):

    from swift.callbacks import callbacks_map
    from swift.tuner_plugin import tuners_map
    from lynx_moe.integrations.ms_swift import PenaltyScale, lynx_tuner
    tuners_map["lynx"] = lynx_tuner(num_experts=8, mix="token")
    callbacks_map["lynx"] = PenaltyScale

and `swift sft --external_plugins that_file.py --tuner_type lynx --callbacks lynx ...` trains with it. ms-swift asks of
a tuner three static methods and of a callback a constructor, so it need not be imported here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from lynx_moe.adapter import LynxConfig, PromptGateHead, follow_loss_scale, prompt_gate_head
from lynx_moe.adapter.attaching import attach_adapter
from lynx_moe.adapter.loading import load_adapter
from lynx_moe.errors import CheckpointError, ConfigError


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
            return _wait_for_scale(attach_adapter(model, LynxConfig(**settings)))

        @staticmethod
        def save_pretrained(
            model: nn.Module,
            save_directory: str,
            state_dict: dict[str, Tensor] | None = None,
            safe_serialization: bool = True,
            **kwargs: Any,
        ) -> None:
            state_dict = _with_head(model.state_dict() if state_dict is None else state_dict, model)
            kwargs.setdefault("selected_adapters", ["default"])
            model.save_pretrained(
                save_directory, state_dict=state_dict, safe_serialization=safe_serialization, **kwargs
            )

        @staticmethod
        def from_pretrained(model: nn.Module, model_id: str, **kwargs: Any) -> nn.Module:
            return _wait_for_scale(load_adapter(model, model_id, **kwargs))

    return LynxTuner


class PenaltyScale(TrainerCallback):
    """Scales the penalties as the trainer scales the loss: ms-swift accumulates up to 16 micro-batches unasked."""

    def __init__(self, args: Any, trainer: Any):
        self.trainer = trainer

    def on_train_begin(self, *_: Any, **kwargs: Any) -> None:
        handle = vars(self.trainer.model).pop(_WAITING, None)
        if handle is not None:
            handle.remove()

    def on_step_begin(self, *_: Any, **kwargs: Any) -> None:
        follow_loss_scale(self.trainer)


_WAITING = "_lynx_waits_for_scale"


def _wait_for_scale(model: nn.Module) -> nn.Module:
    """`model`, which trains only under `PenaltyScale`: a tuner is not told how loading a checkpoint will train."""
    setattr(model, _WAITING, model.register_forward_pre_hook(_refuse_to_train))
    return model


def _refuse_to_train(model: nn.Module, args: tuple) -> None:
    if model.training and torch.is_grad_enabled():
        raise ConfigError(
            "the penalties do not know how this trainer scales its loss",
            why="with gradient accumulation or fp16 they would weigh another amount than the adapter's config says",
            fix='register callbacks_map["lynx"] = PenaltyScale in the plug-in file and add --callbacks lynx',
        )


def _with_head(state_dict: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """`state_dict` with the prompt gate's head, under the names that an adapter's file has.

    The head is fitted and not trained, so a state of trainable tensors lacks it. And PEFT before 0.21, which ms-swift
    asks for, leaves the adapter's name in those of the head, then finds no such weights and loads a random head.

    Raises:
        CheckpointError: the head was fitted and ZeRO-3 holds it in parts, which one rank alone cannot put together.
    """
    head = prompt_gate_head(model, "default")
    heads = next(name for name, module in model.named_modules() if module is head).removesuffix("default")
    if any(hasattr(p, "ds_id") for p in head.parameters()):
        if bool(head.fitted):
            raise CheckpointError(
                "the fitted prompt gate's head cannot be saved",
                why="ZeRO-3 holds it in parts, and the trainer hands over the trainable tensors only",
                fix="fit the prompt gate after training, or train with ZeRO-2",
            )
        head = PromptGateHead(head.hidden.in_features)
    others = {name: tensor for name, tensor in state_dict.items() if not name.startswith(heads)}
    return others | {f"{heads}{name}": tensor for name, tensor in head.state_dict().items()}
