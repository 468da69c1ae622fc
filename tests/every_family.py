"""A tiny real model of every family that `docs/families.md` lists: its default config with small numbers in it.

Sizes are made small by the names that fields have; what a family needs beyond that is in `NEEDS`. Inputs are words
alone where the family answers words alone: the vision towers are there and unchanged, and `tests.zoo` shows pictures to
every structure.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from transformers import AutoModelForImageTextToText
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from tests.tiny import VOCAB, _build, _pixels, _prompts
from tests.zoo import ZOO

LAYERS = 4
# The first pattern that fits a field's name says its size. Widths divide by heads, heads by key-value heads.
SIZES: tuple[tuple[str, int], ...] = (
    (r"(padded_|additional_|unpadded_)?vocab_size(_per_layer_input)?", VOCAB),
    (r"(swa_)?(num_key_value_heads|num_kv_heads|num_global_key_value_heads)", 2),
    (r".*(num_attention_heads|attention_heads|num_heads|n_heads|n_head)", 4),
    (r"(global_|swa_)?head_dim|v_head_dim|qk_nope_head_dim|qk_rope_head_dim|kv_channels|d_kv|attention_head_dim", 8),
    (r"q_lora_rank|kv_lora_rank", 16),
    (r"num_hidden_layers|num_layers|n_layers|encoder_layers|decoder_layers|num_decoder_layers|layers|depth", LAYERS),
    (r"n_routed_experts|num_experts|num_local_experts|moe_num_experts", 4),
    (r"num_experts_per_tok|moe_topk|top_k_experts|moe_k|num_experts_per_token", 2),
    (r".*(hidden_size|hidden_dim|d_model|embed_dim|projection_dim|out_hidden_size|width|out_dim|output_dim)", 32),
    (r".*(intermediate_size|ffn_dim|d_ff|mlp_dim|ffn_hidden_size|intermediate_dim|ffn_size)", 64),
    (r"image_size|crop_size", 32),
    (r"patch_size", 8),
    (r"max_position_embeddings|max_seq_len|n_positions|max_source_positions", 512),
)


def _small(fields: dict[str, Any]) -> dict[str, Any]:
    """A config's fields, nested ones too, with small numbers, and with lists of one entry per layer cut to fit."""
    before = next((fields[n] for n in ("num_hidden_layers", "num_layers", "decoder_layers") if n in fields), None)
    small = {}
    for name, value in fields.items():
        if name == "per_layer_config" and isinstance(value, dict):
            small[name] = {layer: _small(own) for layer, own in value.items() if int(layer) < LAYERS}
            continue
        size = next((size for pattern, size in SIZES if re.fullmatch(pattern, str(name))), None)
        if isinstance(value, dict):
            small[name] = _small(value)
        elif name == "mrope_section":
            small[name] = [1, 1, 2]
        elif isinstance(value, list) and before and len(value) == before:
            small[name] = value[:LAYERS]
        elif isinstance(value, int) and not isinstance(value, bool) and value and size is not None:
            small[name] = size
        elif isinstance(value, int) and str(name).endswith(("token_id", "token_index")) and value >= VOCAB:
            small[name] = 3
        else:
            small[name] = value
    if "kv_lora_rank" in small:  # low-rank attention has as many keys as queries
        small["num_key_value_heads"] = small["num_attention_heads"]
    if {"kv_lora_rank", "qk_rope_head_dim"} <= small.keys():
        small["qk_head_dim"] = small["qk_nope_head_dim"] + small["qk_rope_head_dim"]
    return small


def merged(fields: dict, more: dict) -> dict:
    """`fields` with `more` in it, at every depth."""
    return {
        **fields,
        **{
            n: merged(fields[n], v) if isinstance(v, dict) and isinstance(fields.get(n), dict) else v
            for n, v in more.items()
        },
    }


def _text(**fields: object) -> dict:
    return {"text_config": fields}


def _rope(**fields: object) -> dict:
    return _text(rope_parameters={"mrope_section": [1, 1, 2], **fields})


NEEDS: dict[str, dict] = {
    **dict.fromkeys(("glm46v", "glm4v", "glm_ocr", "glmga", "paddleocr_vl", "qwen2_vl", "qwen2_5_vl"), _rope()),
    "glm4v_moe": _rope(partial_rotary_factor=1.0),
    "dots3_note": merged(
        _text(per_layer_config={"02": {"head_dim": 16}, "03": {"head_dim": 16}}),
        {"vision_config": {"adapter_in_dim": 32}, "audio_config": {"adapter_input_size": 32}},
    ),
    "ernie4_5_vl_moe": merged(_rope(), _text(moe_intermediate_size=[16, 16])),
    "glm5_next": _text(linear_head_dim=8),
    "instructblip": {"num_query_tokens": 4, "image_token_index": 3, **_text(word_embed_proj_dim=32)},
    "instructblipvideo": {"num_query_tokens": 4, "video_token_index": 3, **_text(word_embed_proj_dim=32)},
    "janus": {
        "vq_config": {"base_channels": 32, "channel_multiplier": [1], "num_res_blocks": 1, "latent_channels": 32}
    },
    "kimi_k25": _text(n_group=1, topk_group=1, first_k_dense_replace=1),
    "mistral4": {"rope_parameters": {"partial_rotary_factor": 1.0}},
    "molmo2": {"adapter_config": {"vision_feature_layer": [-1, -2]}, "image_patch_id": 3},
    "muse_spark": {"audio_config": {"hidden_sizes": [32] * 4}},
    "nemotron_h_omni": _text(n_groups=2, mamba_head_dim=16),
    "qwen2_5_omni_thinker": merged(_rope(), {"vision_start_token_id": 5}),
    "qwen3_omni_moe_thinker": {"vision_start_token_id": 5},
    "pi0": {"vlm_config": {"image_token_index": 3}},
    "pix2struct": {"vision_config": {"patch_embed_hidden_size": 3 * 8 * 8}},
    **dict.fromkeys(("udop", "vision-encoder-decoder"), {"decoder_start_token_id": 0, "pad_token_id": 0}),
    "step3p7": _text(sliding_window=8),
}


def _answering(**more: torch.Tensor) -> dict[str, torch.Tensor]:
    return {**more, "decoder_input_ids": _prompts([])["input_ids"]}


def _two_sided() -> dict[str, torch.Tensor]:
    return _answering(**_prompts([]))


def _instruct(picture_tokens: int, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    words = _prompts([])
    return {
        **_prompts([3] * picture_tokens),
        "pixel_values": pixels,
        "qformer_input_ids": words["input_ids"],
        "qformer_attention_mask": words["attention_mask"],
    }


INPUTS: dict[str, Callable] = {
    "idefics": lambda: {
        **_prompts([]),
        "pixel_values": _pixels(2, 1, 3, 32, 32),
        "image_attention_mask": torch.ones(*_prompts([])["input_ids"].shape, 1, dtype=torch.long),
    },
    "instructblip": lambda: _instruct(4, _pixels(2, 3, 32, 32)),
    "instructblipvideo": lambda: _instruct(4 * 2, _pixels(2, 2, 3, 32, 32)),
    "pi0": lambda: {
        **_prompts([3] * 16),
        "pixel_values": _pixels(2, 1, 3, 32, 32),
        "pixel_attention_mask": torch.ones(2, 1, dtype=torch.bool),
        "state": _pixels(2, 32),
        "noise": _pixels(2, 50, 32),
        "timestep": torch.full((2,), 0.5),
    },
    "pix2struct": lambda: _answering(flattened_patches=_pixels(2, 4, 2 + 3 * 8 * 8).abs()),
    "pp_formulanet": lambda: _answering(pixel_values=_pixels(2, 3, 32, 32)),
    "t5gemma2": _two_sided,
    "udop": lambda: {**_two_sided(), "bbox": torch.zeros(*_prompts([])["input_ids"].shape, 4)},
    "vision-encoder-decoder": lambda: _answering(pixel_values=_pixels(2, 3, 32, 32)),
}
ZOO_NAMES = {"blip": "blip, bert", "blip-2": "blip-2, opt", "florence2": "florence2", "kosmos-2": "kosmos-2"}


def tiny(family: str):
    """`(model, inputs)` of a family, as those of `tests.tiny`."""
    if family in ZOO_NAMES:
        return ZOO[ZOO_NAMES[family]]()
    whole = CONFIG_MAPPING[family]()
    config = type(whole).from_dict(merged(_small(whole.to_dict()), NEEDS.get(family, {})))
    model = _build(lambda config: AutoModelForImageTextToText.from_config(config), config)
    return model, INPUTS.get(family, lambda: _prompts([]))()
