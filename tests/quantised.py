"""Tiny models as bitsandbytes holds them: saved, and loaded again in 8 or 4 bits on the CPU."""

from __future__ import annotations

import tempfile

import torch
import transformers

from lynx_moe.adapter.quantised import outside_decoder_layers

KINDS = ("nf4", "int8")


def quantised(model: transformers.PreTrainedModel, kind: str, dtype: torch.dtype = torch.float32, **more):
    """`model`'s weights in a new model of the same class, in eval mode; outside the decoder's layers in `dtype`."""
    config = transformers.BitsAndBytesConfig(
        load_in_4bit=kind == "nf4",
        load_in_8bit=kind == "int8",
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=outside_decoder_layers(model),
        **more,
    )
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        loaded = type(model).from_pretrained(folder, quantization_config=config, device_map="cpu", dtype=dtype)
    loaded.generation_config.eos_token_id = None
    return loaded.requires_grad_(False).eval()


def in_dtype(inputs: dict[str, torch.Tensor], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    return {name: value.to(dtype) if value.is_floating_point() else value for name, value in inputs.items()}
