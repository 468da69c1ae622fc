"""An adapter that has something to say: a fresh one has zero outputs, which would let every test pass."""

import torch
from peft import get_peft_model

from lynx_moe.adapter import LynxConfig, lynx_layers, lynx_projections

# Every way an adapter can add to the base: each invariant is tested on each.
KINDS = {
    "additive": {"mix": "additive"},
    "convex": {"mix": "convex"},
    "token": {"mix": "token"},
    "with attention": {"mix": "additive", "attention_rank": 3},
}


def make_it_speak(model, adapter_name="default", seed=0):
    """Fixed-seed values for every tensor of the new experts, so that two models made alike are alike."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in (*lynx_layers(model).values(), *lynx_projections(model).values()):
            if adapter_name in layer.adapters:
                for parameter in layer.adapters[adapter_name].parameters():
                    parameter.copy_(torch.randn(parameter.shape, generator=draw) * 0.4)
    return model


def adapted(vlm, **settings):
    """`vlm` with a speaking adapter whose prompt gate is open unless said otherwise; eval mode."""
    return make_it_speak(get_peft_model(vlm, LynxConfig(**{"prompt_gate": "on", **settings}))).eval()
