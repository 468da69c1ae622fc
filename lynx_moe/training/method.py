"""What is trained: the new experts, or one of the two baselines to compare them with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict

from torch import Tensor, nn

from lynx_moe.adapter import LynxConfig, lynx_layers, penalty_values, set_gate
from lynx_moe.adapter.attaching import COPIES, attach_adapter, attach_copies, attach_lora
from lynx_moe.objectives.attached import is_head
from lynx_moe.training.hashing import BaseHash
from lynx_moe.training.settings import BASELINE_ONLY, Settings
from lynx_moe.training.sharding import whole_state


def attach(base: nn.Module, settings: Settings, base_hash: BaseHash) -> nn.Module:
    """The base as a PEFT model with what `adapter.method` asks for, fresh.

    Raises:
        ConfigError: an adapter setting that nothing can honour. FamilyError: no decoder in this base to wrap.
    """
    chosen = settings.adapter
    if chosen.method == "lora":
        return attach_lora(base, chosen.lora_rank)
    if chosen.method == "full":
        return attach_copies(base)
    own = {name: value for name, value in asdict(chosen).items() if name not in BASELINE_ONLY}
    config = LynxConfig(**own, retention_kl=settings.objective.retention_kl, dialect=settings.model.dialect)
    model = attach_adapter(base, config)
    # Saved with the adapter, which travels further than the run's card.
    model.peft_config[model.active_adapter].base["sha256"] = base_hash.digest
    return model


def adapter_parts(model: nn.Module) -> tuple[str, ...]:
    """How parts of tensors' names begin that are the adapter's, not the base's."""
    return (model.base_model.prefix, COPIES)


def only_adapter_trains(model: nn.Module) -> int:
    """Number of trainable parameters; makes sure that every one of them is the adapter's."""
    parts = adapter_parts(model)
    trainable = {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}
    outside = [name for name in trainable if not any(part.startswith(parts) for part in name.split("."))]
    assert not outside, f"parameters of the base would be trained: {outside[:5]}"
    assert trainable, "the adapter has nothing to train"
    return sum(trainable.values())


def adapter_state(model: nn.Module) -> dict[str, Tensor]:
    """Everything of the adapter, trained or not, whole and on the CPU, by its name in `model`. By every process.

    Heads of objectives train with it and are no part of it.
    """
    parts = adapter_parts(model)
    return whole_state(
        model, lambda name: any(part.startswith(parts) for part in name.split(".")) and not is_head(name)
    )


def is_gated(model: nn.Module) -> bool:
    """Whether the adapter has gates: the baselines have none."""
    return bool(lynx_layers(model))


def open_gate(model: nn.Module) -> AbstractContextManager:
    """Inside, every row of every forward lets the new experts speak."""
    return set_gate(model, True) if is_gated(model) else nullcontext()


@contextmanager
def watched_penalties(model: nn.Module, valid_BL: Tensor | None = None) -> Iterator[dict[str, dict[str, Tensor]]]:
    """As `penalty_values`; stays empty for a baseline."""
    if not is_gated(model):
        yield {}
        return
    with penalty_values(model, valid_BL) as values:
        yield values
