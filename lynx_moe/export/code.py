"""Route "code": a folder with one short modelling file of its own, which needs torch and transformers only."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import torch
from torch import nn

from lynx_moe.adapter.prompt_gate import prompt_mask
from lynx_moe.errors import ExportError
from lynx_moe.export import code_heads
from lynx_moe.export.built import Built
from lynx_moe.export.code_layout import SIZES, experts_child, head_of, served_by_vllm, wrapped_name
from lynx_moe.export.code_source import MIX_CODE, MODULE, class_names, source
from lynx_moe.export.promise import Promise
from lynx_moe.export.read import Adapted


def refusal(adapted: Adapted) -> str | None:
    """Why no modelling file can hold this model, in words that follow "because"; None when one can."""
    for kind in (type(adapted.base), type(adapted.base.config)):
        if not kind.__module__.startswith("transformers."):
            return f"{kind.__name__} is not a class of transformers, and the file would be a subclass of it"
    if adapted.quantised:
        return "the base's weights are packed by a quantisation library, and the folder would need them plain"
    return code_heads.refusal(adapted)


def promise(adapted: Adapted) -> Promise:
    """What comes out: the live model's own arithmetic, bit for bit, with its prompt gate."""
    costs = ["loading needs trust_remote_code=True for one short file in the folder"]
    if adapted.heads:
        costs.append(
            f"model.ask() answers with its {' and '.join(adapted.heads)}; generate() and vLLM give words alone"
        )
    by_vllm, why = served_by_vllm(adapted)
    if why:
        costs.append(f"vLLM runs {why}")
    # What is rounded in the live model alone is no arithmetic of the file; 1e-5 is what reordered additions give.
    rounded = bool(adapted.rounded_buffers)
    return Promise(
        host=type(adapted.base).__name__,
        exactness="rounding" if rounded else "bitwise",
        bound=1e-5 if rounded else 0.0,
        keeps="the live model as it is, prompt gate included; base tensors byte for byte",
        costs=tuple(costs),
        served_by={"transformers": "yes, with trust_remote_code=True", "vllm": by_vllm, "sglang": "unknown"},
    )


def build(adapted: Adapted, folder: Path) -> Built:
    """Write the modelling file into `folder`, and describe the model it defines; its tensors are the live ones.

    Raises:
        ExportError: `refusal` has a reason.
    """
    reason = refusal(adapted)
    if reason is not None:
        raise ExportError(
            f"no self-contained code for this {type(adapted.base).__name__}",
            why=reason,
            fix="attach the adapter to an unquantised base of transformers' own classes and export that, or use "
            "route='adapter'",
        )
    (folder / f"{MODULE}.py").write_text(source(adapted), encoding="utf-8")
    module = _load(folder / f"{MODULE}.py")
    names = class_names(adapted)
    config_class = getattr(module, names["config_class"])

    fields = adapted.base.config.to_dict()
    for key in ("model_type", "architectures", "auto_map"):
        fields.pop(key, None)
    config = config_class.from_dict({**fields, "prompt_gate": adapted.gate, "lynx": settings(adapted)})
    if experts_child(adapted) == "experts":
        sizes = (adapted.config.num_experts, adapted.config.top_k, adapted.expert_width)
        for name, size in zip(SIZES, sizes, strict=True):
            setattr(config.get_text_config(), name, size)
    # vLLM imports them in this order, and a model's class needs its config's.
    config.auto_map = {"AutoConfig": f"{MODULE}.{names['config_class']}"}
    if "body_class" in names:
        config.auto_map["AutoModel"] = f"{MODULE}.{names['body_class']}"
    config.auto_map["AutoModelForImageTextToText"] = f"{MODULE}.{names['model_class']}"
    tensors, origin = {}, {}
    for name, tensor in adapted.base_state().items():
        new_name = wrapped_name(adapted, name)
        tensors[new_name], origin[new_name] = tensor, name
    tensors |= new_tensors(adapted)
    return Built(config=config, model_class=getattr(module, names["model_class"]), tensors=tensors, origin=origin)


def settings(adapted: Adapted) -> dict:
    """What the modelling file must know besides the base's config: sizes, places, and which tokens are no words."""
    head = head_of(adapted)
    return {
        "blocks": {
            name: {"expert_width": width, "reads": adapted.reads(name), "activation": adapted.activation_path(name)}
            for name, width in adapted.expert_widths.items()
        },
        "projections": list(adapted.projections),
        "attention_rank": adapted.config.attention_rank,
        "num_experts": adapted.config.num_experts,
        "top_k": adapted.config.top_k,
        "mix": adapted.config.mix,
        "width": adapted.branch(next(iter(adapted.blocks))).router_ED.shape[1],
        "head_width": 0 if head is None else head.hidden.out_features,
        "not_text_ids": [] if head is None else _not_text_ids(adapted.base),
        **code_heads.settings(adapted),
    }


def new_tensors(adapted: Adapted) -> dict[str, torch.Tensor]:
    """The adapter's and the heads' tensors by the names of the modelling file: experts in the base's type, in which
    they are used anyway, and everything that decides (routers, gates, the prompt gate's head) or draws in float32."""
    tensors, experts = {}, experts_child(adapted)
    for block in adapted.blocks:
        branch = adapted.branch(block)
        tensors[f"{block}.{experts}.gate_up_proj"] = branch.gate_up_EFD.detach().to(adapted.dtype)
        tensors[f"{block}.{experts}.down_proj"] = branch.down_EDF.detach().to(adapted.dtype)
        tensors[f"{block}.lynx_router.weight"] = branch.router_ED.detach().float()
        for name, new_name in MIX_CODE[adapted.config.mix].renamed.items():
            tensors[f"{block}.lynx_gate.{new_name}"] = getattr(branch, name).detach().float()
    for projection in adapted.projections:
        delta = adapted.delta(projection)
        tensors[f"{projection}.lynx_delta.down"] = delta.down_RD.detach().to(adapted.dtype)
        tensors[f"{projection}.lynx_delta.up"] = delta.up_OR.detach().to(adapted.dtype)
    head = head_of(adapted)
    if head is not None:
        tensors |= {f"lynx_head.{name}": p.detach().float() for name, p in head.named_parameters()}
    return tensors | code_heads.tensors(adapted)


def _not_text_ids(base: nn.Module) -> list[int]:
    every_id = torch.arange(base.get_input_embeddings().weight.shape[0])[None]
    return every_id[~prompt_mask(base, every_id)].tolist()


def _load(path: Path) -> ModuleType:
    name = f"lynx_export_{path.stem}_{abs(hash(str(path))):x}"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    # Config classes are dataclasses, which look their module up by name while they are made.
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
