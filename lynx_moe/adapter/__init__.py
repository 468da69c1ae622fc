"""The PEFT method "LYNX": new experts beside frozen ones, under a gate. Importing this package registers it.

The only package that imports PEFT.
"""

from collections.abc import Sequence

from torch import nn

from lynx_moe.adapter.registration import register

register()

# Only now (E402): the config needs the registered name, and all of these need the config.
from lynx_moe.adapter.block import LynxLayer  # noqa: E402
from lynx_moe.adapter.config import LynxConfig  # noqa: E402
from lynx_moe.adapter.gate_context import (  # noqa: E402
    follow_loss_scale,
    open_rows,
    runtime_of,
    set_aux_scale,
    set_gate,
)
from lynx_moe.adapter.model import LynxModel  # noqa: E402
from lynx_moe.adapter.projection import LynxProjection  # noqa: E402
from lynx_moe.adapter.prompt_gate import PromptGateHead, fit_head, pool_prompts  # noqa: E402
from lynx_moe.adapter.recording import dead_parameters, penalty_values, record_routing  # noqa: E402
from lynx_moe.errors import ConfigError  # noqa: E402

__all__ = [
    "LynxConfig",
    "LynxLayer",
    "LynxModel",
    "LynxProjection",
    "PromptGateHead",
    "dead_parameters",
    "fit_prompt_gate",
    "follow_loss_scale",
    "lynx_layers",
    "lynx_projections",
    "open_rows",
    "penalty_values",
    "predict_prompt_gate",
    "prompt_gate_head",
    "record_routing",
    "set_aux_scale",
    "set_gate",
]


def lynx_layers(model: nn.Module) -> dict[str, LynxLayer]:
    """The wrapped blocks of `model`, by the name their module has in the base, in layer order."""
    return {module.name: module for module in model.modules() if isinstance(module, LynxLayer)}


def lynx_projections(model: nn.Module) -> dict[str, LynxProjection]:
    """The attention projections of `model` that carry low-rank deltas, named likewise; empty without them."""
    return {module.name: module for module in model.modules() if isinstance(module, LynxProjection)}


def prompt_gate_head(model: nn.Module, adapter_name: str | None = None) -> PromptGateHead:
    """The prompt gate's head of an adapter; the first active one when no name is given.

    Raises:
        ConfigError: there is no such adapter.
    """
    runtime = runtime_of(model)
    name = adapter_name or (runtime.layers[0].active_adapters or [None])[0]
    head = runtime.head_of(name)
    if head is None:
        raise ConfigError(
            f"no adapter called {name!r}",
            why=f"adapters of this model: {', '.join(runtime.modes) or 'none'}",
            fix="name one of those, or load the adapter first",
        )
    return head


def fit_prompt_gate(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    is_grounding: Sequence[bool],
    *,
    adapter_name: str | None = None,
    steps: int = 300,
    seed: int = 0,
) -> dict[str, float]:
    """Fit the head that decides, per prompt, whether the new experts speak; nothing else changes.

    Args:
        prompts: token ids of whole prompts in the chat format that the model will see, picture tokens allowed
            (they do not count). The constant parts of a chat format are harmless, another format is not.
        is_grounding: one bool per prompt.

    Returns:
        "train_error" (share of these prompts on the wrong side), "num_prompts", "num_grounding".

    Raises:
        ConfigError: only one kind of prompt, or numbers that do not match.
    """
    head = prompt_gate_head(model, adapter_name)
    error = fit_head(head, pool_prompts(model, prompts), is_grounding, steps=steps, seed=seed)
    return {
        "train_error": error,
        "num_prompts": len(prompts),
        "num_grounding": sum(map(bool, is_grounding)),
    }


def predict_prompt_gate(
    model: nn.Module, prompts: Sequence[Sequence[int]], *, adapter_name: str | None = None
) -> list[float]:
    """The head's logit per prompt; above 0 the new experts speak."""
    head = prompt_gate_head(model, adapter_name)
    return head(pool_prompts(model, prompts).to(head.out.weight.device)).tolist()
