"""How an exported modelling file is laid out: what its children are called, and which programs can run them.

Transformers and vLLM find parts of a model by their names and shapes; what they look for is gathered here.
"""

from __future__ import annotations

import inspect

import transformers
from torch import nn
from torch.nn import functional as F

from lynx_moe.adapter import prompt_gate_head
from lynx_moe.export.read import Adapted
from lynx_moe.families.ffn import asks_its_class, describe_ffn

# What programs look for in a text config to size a decoder's experts; vLLM reads the first name of each row it finds.
SIZES = {
    "num_experts": ("num_experts", "moe_num_experts", "n_routed_experts", "num_local_experts"),
    "num_experts_per_tok": ("num_experts_per_tok", "num_experts_per_token", "top_k_experts", "moe_topk", "top_k"),
    "moe_intermediate_size": ("moe_intermediate_size",),
}


def head_of(adapted: Adapted):
    """The prompt gate's head, if it was fitted: then the exported config can be set to "auto" at any time."""
    head = prompt_gate_head(adapted.base, adapted.adapter_name)
    return head if head.is_fitted else None


def body_of(adapted: Adapted) -> nn.Module | None:
    """The part of the model below its language head, where it is a model of its own that holds all new weights."""
    prefix = adapted.base.base_model_prefix
    body = getattr(adapted.base, prefix, None) if prefix else None
    places = (*adapted.blocks, *adapted.projections)
    if not isinstance(body, transformers.PreTrainedModel) or type(body.config) is not type(adapted.base.config):
        return None
    return body if all(name.startswith(f"{prefix}.") for name in places) else None


def wrapped_name(adapted: Adapted, name: str) -> str:
    """A base tensor's name in the modelling file, where wrapped modules lie one deeper."""
    for places, child in ((adapted.blocks, frozen_child(adapted)), (adapted.projections, "base_layer")):
        for wrapped in places:
            if name.startswith(f"{wrapped}."):
                return f"{wrapped}.{child}.{name.removeprefix(f'{wrapped}.')}"
    return name


def is_spread(adapted: Adapted) -> bool:
    return any(adapted.reads(name) is not None for name in adapted.blocks)


def is_plain(adapted: Adapted) -> bool:
    """Whether every frozen block is a dense FFN from one tensor to one tensor."""
    frozen = [layer.base_layer for layer in adapted.blocks.values()]
    return not is_spread(adapted) and all(
        len(inspect.signature(module.forward).parameters) == 1 and not describe_ffn(module).is_moe for module in frozen
    )


def own_kernel_refusal(adapted: Adapted) -> str | None:
    """Why another program may not take our experts for a decoder's usual ones, in words that follow "because".

    vLLM runs a child called `experts` by its own kernel, always with SiLU and always of the sizes in the text config.
    """
    if not is_plain(adapted):
        return "the frozen block is no dense FFN from one tensor to one tensor"
    if adapted.config.expert_kind != "gated":
        return "the experts have no gate"
    activations = [adapted.branch(name).activation for name in adapted.blocks]
    # An activation of transformers is a module, or torch's own function.
    if not all(a is F.silu or type(a).__name__ in ("SiLU", "SiLUActivation") for a in activations):
        return "the experts' activation is not SiLU"
    if len(set(adapted.expert_widths.values())) > 1:
        return "the experts are not of one width in all layers"
    text = adapted.text_config
    if any(hasattr(text, name) for names in SIZES.values() for name in names):
        return f"a {text.model_type!r} config has expert sizes of its own"
    return None


def frozen_child(adapted: Adapted) -> str:
    """What the frozen module is called inside a block.

    By its own name where it is no plain FFN: transformers renames the parts of many MoE blocks while it loads them, by
    patterns in which that name stands in front.
    """
    return "shared_expert" if is_plain(adapted) else next(iter(adapted.blocks)).rpartition(".")[2]


def poses(adapted: Adapted) -> bool:
    parents = [name.rpartition(".") for name in adapted.blocks]
    return any(asks_its_class(adapted.base.get_submodule(parent), child) for parent, _, child in parents)


def experts_child(adapted: Adapted) -> str:
    return "experts" if own_kernel_refusal(adapted) is None else "lynx_experts"


def served_by_vllm(adapted: Adapted) -> tuple[str, str]:
    """Whether vLLM's Transformers back-end (0.33, read and not run) takes the folder, and what it runs how."""
    if body_of(adapted) is None:
        return "no: the model has no body of its own below its language head", ""
    if adapted.base.config.is_encoder_decoder:
        return "no: it serves no encoder-decoders", ""
    if not type(adapted.base).is_backend_compatible():
        return f"no: {type(adapted.base).__name__} computes attention by itself", ""
    reason = own_kernel_refusal(adapted)
    how = "yes, by source (Transformers back-end, trust_remote_code)"
    if adapted.gate == "auto":
        how += ", with prompt_gate set to 'on' or 'off' for all prompts"
    if reason is not None:
        return how, f"the new experts as plain code and not by its own kernel, because {reason}"
    if adapted.config.mix != "additive":
        return (
            how,
            f"the experts by its own kernel, but not router and frozen FFN with them: mix={adapted.config.mix!r}",
        )
    return how, ""
