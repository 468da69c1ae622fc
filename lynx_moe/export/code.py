"""Route "code": a folder with one short modelling file of its own, which needs torch and transformers only."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from string import Template
from textwrap import indent
from types import ModuleType

import torch
import transformers
from torch import nn

import lynx_moe
from lynx_moe.adapter import prompt_gate_head
from lynx_moe.adapter.prompt_gate import prompt_mask
from lynx_moe.errors import ExportError
from lynx_moe.export.built import Built
from lynx_moe.export.read import Adapted
from lynx_moe.ops.experts import FEW_ROWS

MODULE = "modelling_lynx"


@dataclass(frozen=True)
class MixCode:
    """What a mix is in the modelling file: parameters of its gate, weights from top-k scores, and the sum."""

    weights: str
    mix: str
    gate_parameters: str = ""
    renamed: dict[str, str] = field(default_factory=dict)


# The arithmetic of lynx_moe.ops.mixes, term for term, so that the export rounds as the live model does.
MIX_CODE = {
    "additive": MixCode(weights="scores.sigmoid()", mix="return f + n"),
    "convex": MixCode(
        gate_parameters="self.alpha_logit = nn.Parameter(torch.zeros(1))",
        weights="scores.softmax(dim=-1)",
        mix="alpha = self.alpha_logit.float().sigmoid()[None]\nreturn (alpha * f + (1 - alpha) * n).to(f.dtype)",
        renamed={"alpha_logit": "alpha_logit"},
    ),
    "token": MixCode(
        gate_parameters=(
            'self.gate = nn.Parameter(torch.zeros(settings["width"]))\nself.gate_bias = nn.Parameter(torch.zeros(1))'
        ),
        weights="scores.softmax(dim=-1)",
        mix="gate = (x.float() @ self.gate.float() + self.gate_bias.float()).sigmoid()[:, None]\n"
        "return f + (gate * n).to(f.dtype)",
        renamed={"token_gate_D": "gate", "token_gate_bias": "gate_bias"},
    ),
}


def source(adapted: Adapted) -> str:
    """Text of the modelling file: the stock VLM class, subclassed, with our block in place of the wrapped FFNs.

    Raises:
        ExportError: transformers does not offer the base's class by name, so nothing can be subclassed.
    """
    model, config = type(adapted.base), type(adapted.base.config)
    for kind in (model, config):
        if getattr(transformers, kind.__name__, None) is not kind:
            raise ExportError(
                f"{kind.__name__} is not a class of transformers",
                why="a self-contained export subclasses the base's class, and this one comes from elsewhere",
                fix="export with route='adapter'",
            )
    mix = MIX_CODE[adapted.config.mix]
    text = (files("lynx_moe.export") / "templates" / f"{MODULE}.py.tmpl").read_text(encoding="utf-8")
    return Template(text).substitute(
        base_model=model.__name__,
        base_config=config.__name__,
        model_class=f"Lynx{model.__name__}",
        config_class=f"Lynx{config.__name__}",
        model_type=f"lynx_{adapted.base.config.model_type}",
        version=lynx_moe.__version__,
        transformers_version=transformers.__version__,
        weights=mix.weights,
        few_rows=FEW_ROWS,
        mix=indent(mix.mix, " " * 8),
        gate_parameters=indent(mix.gate_parameters, " " * 8) + "\n" if mix.gate_parameters else "",
    )


def build(adapted: Adapted, folder: Path) -> Built:
    """Write the modelling file into `folder`, and describe the model it defines; its tensors are the live ones."""
    text = source(adapted)
    (folder / f"{MODULE}.py").write_text(text, encoding="utf-8")
    module = _load(folder / f"{MODULE}.py")
    model_class = getattr(module, f"Lynx{type(adapted.base).__name__}")
    config_class = getattr(module, f"Lynx{type(adapted.base.config).__name__}")

    fields = adapted.base.config.to_dict()
    for key in ("model_type", "architectures", "auto_map"):
        fields.pop(key, None)
    config = config_class.from_dict({**fields, "prompt_gate": adapted.gate, "lynx": settings(adapted)})
    config.auto_map = {
        "AutoConfig": f"{MODULE}.{config_class.__name__}",
        "AutoModelForImageTextToText": f"{MODULE}.{model_class.__name__}",
    }
    tensors, origin = {}, {}
    for name, tensor in adapted.base_state().items():
        new_name = adapted.wrapped_name(name)
        tensors[new_name], origin[new_name] = tensor, name
    tensors |= new_tensors(adapted)
    return Built(config=config, model_class=model_class, tensors=tensors, origin=origin)


def settings(adapted: Adapted) -> dict:
    """What the modelling file must know besides the base's config: sizes, places, and which tokens are no words."""
    head = _head(adapted)
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
        "not_text_ids": _not_text_ids(adapted.base),
    }


def new_tensors(adapted: Adapted) -> dict[str, torch.Tensor]:
    """The adapter's tensors by the names of the modelling file: experts in the base's type, in which they are used
    anyway, and everything that decides (routers, gates, the prompt gate's head) in float32."""
    tensors = {}
    for block in adapted.blocks:
        branch = adapted.branch(block)
        tensors[f"{block}.lynx_experts.gate_up_proj"] = branch.gate_up_EFD.detach().to(adapted.dtype)
        tensors[f"{block}.lynx_experts.down_proj"] = branch.down_EDF.detach().to(adapted.dtype)
        tensors[f"{block}.lynx_router.weight"] = branch.router_ED.detach().float()
        for name, new_name in MIX_CODE[adapted.config.mix].renamed.items():
            tensors[f"{block}.lynx_router.{new_name}"] = getattr(branch, name).detach().float()
    for projection in adapted.projections:
        delta = adapted.delta(projection)
        tensors[f"{projection}.lynx_down.weight"] = delta.down_RD.detach().to(adapted.dtype)
        tensors[f"{projection}.lynx_up.weight"] = delta.up_OR.detach().to(adapted.dtype)
    head = _head(adapted)
    if head is not None:
        tensors |= {f"lynx_head.{name}": p.detach().float() for name, p in head.named_parameters()}
    return tensors


def _head(adapted: Adapted):
    """The prompt gate's head, if it was fitted: then the exported config can be set to "auto" at any time."""
    head = prompt_gate_head(adapted.base, adapted.adapter_name)
    return head if head.is_fitted else None


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
