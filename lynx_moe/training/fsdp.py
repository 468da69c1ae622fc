"""FSDP2 by torch's own `fully_shard`: every layer's weights divided among the processes, gathered when the layer runs.

Not by accelerate's plug-in: that one does nothing off a GPU, and says nothing.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.optim import Optimizer
from transformers import PreTrainedModel

from lynx_moe.families.find import find_decoder_layers
from lynx_moe.objectives.attached import heads_of
from lynx_moe.training.checkpoints import BY_NAME
from lynx_moe.training.method import adapter_parts


def shard(model: nn.Module) -> None:
    """Divides `model` in place: new weights by themselves, since their number type is their own; then layers; the rest.

    Args:
        model: the PEFT model, whole, on the CPU or where it will train. Layers move to the GPU one by one.
    """
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    mesh = init_device_mesh(kind, (dist.get_world_size(),))
    for module in units(model):
        fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)
    for head in heads_of(model).values():
        for method in head.called:
            register_fsdp_forward_method(head, method)


def units(model: nn.Module) -> list[nn.Module]:
    """What is gathered as one, inner ones first: each part of the adapter, each layer of the decoder and the towers."""
    parts_of_it, base = adapter_parts(model), model.get_base_model()
    new = [
        part
        for name, parts in model.named_modules()
        if isinstance(parts, nn.ModuleDict) and name.rpartition(".")[2].startswith(parts_of_it)
        for part in parts.values()
    ]
    _, blocks = find_decoder_layers(base)
    layers_name = blocks[0].inside.rpartition(".")[0]
    # What transformers itself never takes apart: the layers of towers, mostly.
    kinds = {kind for m in base.modules() if isinstance(m, PreTrainedModel) for kind in m._no_split_modules or ()}
    inside = set(base.get_submodule(layers_name))
    layers = [
        m for m in base.modules() if m in inside or type(m).__name__ in kinds and not isinstance(m, nn.ModuleList)
    ]
    return new + outermost(layers)


def outermost(modules: list[nn.Module]) -> list[nn.Module]:
    """Those that lie in no other of them."""
    below = {id(m) for module in modules for m in module.modules() if m is not module}
    return [module for module in modules if id(module) not in below]


WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)
BETWEEN = "|"  # a parameter's name, and what is remembered of it


def save_optimizer(model: nn.Module, optimizer: Optimizer, schedule: dict, checkpoint: Path) -> None:
    """Writes all that the optimiser remembers, by names of parameters, so that any number of processes can go on from
    it, and `schedule` beside it. By every process; the first one writes.
    """
    state = get_optimizer_state_dict(model, optimizer, options=WHOLE)
    if dist.get_rank() != 0:
        return
    tensors = {f"{name}{BETWEEN}{what}": t for name, of_it in state["state"].items() for what, t in of_it.items()}
    checkpoint.mkdir(parents=True, exist_ok=True)
    said = {"format": "pt", "groups": json.dumps(state["param_groups"]), "schedule": json.dumps(schedule)}
    save_file(tensors, checkpoint / BY_NAME, metadata=said)


def load_optimizer(model: nn.Module, optimizer: Optimizer, checkpoint: Path) -> dict:
    """Takes back what `save_optimizer` wrote, and returns the schedule. By every process."""
    state: dict[str, dict[str, torch.Tensor]] = {}
    with safe_open(checkpoint / BY_NAME, framework="pt") as file:
        said = file.metadata()
        for key in file.keys():
            name, _, what = key.partition(BETWEEN)
            state.setdefault(name, {})[what] = file.get_tensor(key)
    whole = {"state": state, "param_groups": json.loads(said["groups"])}
    set_optimizer_state_dict(model, optimizer, whole, options=WHOLE)
    return json.loads(said["schedule"])
