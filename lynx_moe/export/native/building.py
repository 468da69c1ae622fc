"""The exported model of a native host: every base tensor in its place, and the new ones."""

from __future__ import annotations

from pathlib import Path

import torch

from lynx_moe.export.built import Built, Fold
from lynx_moe.export.native.choosing import choose
from lynx_moe.export.native.host import HOSTS, Host
from lynx_moe.export.read import Adapted


def build(adapted: Adapted, folder: Path | None = None) -> Built:
    """The same VLM with a mixture-of-experts text decoder; tensors that keep their bytes are the live ones.

    Nothing is written into `folder`: no code travels with this route.
    """
    host = HOSTS.get(choose(adapted))
    text = host.text_config(adapted)
    return placed(adapted, host, text)


def placed(adapted: Adapted, host: Host, text) -> Built:
    """Base tensors where the host has them, folded where it must be, and the layers' new tensors."""
    config, model_class = host.outer(adapted, text)
    built = Built(config=config, model_class=model_class, tensors={}, origin={}, adapter=describe(adapted))
    stacks: dict[str, dict[int, tuple[str, torch.Tensor]]] = {}
    for name, tensor in adapted.base_state().items():
        layer = adapted.layer_of(name)
        projection = name.removesuffix(".weight")
        if layer is not None and host.is_sparse(text, layer):
            where = host.place(name.removesuffix(".weight").rsplit(".", 1)[1], adapted.weights_of(layer))
            new_name = f"{layer_path(adapted, layer)}.{where.name}"
            if where.part is not None:
                stacks.setdefault(new_name, {})[where.part] = (name, tensor)
                continue
            if where.factor != 1.0:
                built.folds[new_name] = Fold(factor=where.factor)
                tensor = _times(tensor, where.factor)
        else:
            new_name = name
            if projection in adapted.projections and projection != name:
                built.folds[new_name] = Fold(rank=adapted.config.attention_rank)
                tensor = _plus_delta(tensor, adapted.delta(projection))
        built.tensors[new_name], built.origin[new_name] = tensor, name
    for new_name, parts in stacks.items():
        names, tensors = zip(*(parts[part] for part in sorted(parts)), strict=True)
        built.tensors[new_name], built.stacked[new_name] = torch.cat(tensors), names
    for layer in range(text.num_hidden_layers):
        if host.is_sparse(text, layer):
            for name, tensor in host.routed(text, adapted.weights_of(layer), adapted.dtype).items():
                built.tensors[f"{layer_path(adapted, layer)}.{name}"] = tensor.to(adapted.base.device)
    return built


def layer_path(adapted: Adapted, layer: int) -> str:
    return adapted.ffn_paths[layer].rpartition(".")[0]


def describe(adapted: Adapted) -> dict:
    """What a reader of the export must know to take it apart again: settings and places, numbers and names only."""
    settings = {name: getattr(adapted.config, name) for name in type(adapted.config).__annotations__}
    return {
        "settings": settings | {"prompt_gate": "on"},
        "blocks": {name: adapted.expert_widths[name] for name in adapted.blocks},
        "alpha_logits": _alpha_logits(adapted),
        "projections": list(adapted.projections),
        "base_class": type(adapted.base).__name__,
        "base_config": adapted.base.config.to_dict(),
    }


def _alpha_logits(adapted: Adapted) -> dict[str, float]:
    if adapted.config.mix != "convex":
        return {}
    return {name: adapted.branch(name).alpha_logit.item() for name in adapted.blocks}


def _times(tensor: torch.Tensor, factor: float) -> torch.Tensor:
    # In float32 and rounded once: a factor of two stays exact in every dtype.
    return (tensor.float() * factor).to(tensor.dtype)


def _plus_delta(weight_OD: torch.Tensor, delta: torch.nn.Module) -> torch.Tensor:
    # A gate that is always open makes the delta part of the matrix; summed in float32 and rounded once.
    product_OD = delta.up_OR.detach().float() @ delta.down_RD.detach().float()
    return (weight_OD.float() + product_OD).to(weight_OD.dtype)
