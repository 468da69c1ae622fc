"""Tiny models of families that differ in structure: real transformers classes from their configs, with real forwards.

Each entry of `ZOO` is a function without arguments that returns `(model, inputs)` as those of `tests.tiny` do.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import transformers
from transformers import AutoConfig

from tests.tiny import (
    IMAGE,
    PAD,
    QWEN_TOKENS,
    TEXT,
    VISION,
    VOCAB,
    _build,
    _pixels,
    _prompts,
    qwen_inputs,
    tiny_internvl,
    tiny_llava,
    tiny_llava_moe,
    tiny_qwen2_5_vl,
    tiny_smolvlm,
)

CLIP = {**VISION, "image_size": 32, "patch_size": 8, "projection_dim": 32}
MOE = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}


def llava_around(model_type: str, **text: object) -> Callable:
    """A LLaVA with another text decoder: the decoder's structure is what differs."""

    def build():
        config = AutoConfig.for_model(model_type, **{**TEXT, **text})
        config = transformers.LlavaConfig(
            vision_config=transformers.CLIPVisionConfig(**CLIP),
            text_config=config,
            image_token_index=IMAGE,
            image_seq_length=16,
            vision_feature_layer=-1,
        )
        model = _build(transformers.LlavaForConditionalGeneration, config)
        return model, {**_prompts([IMAGE] * 16), "pixel_values": _pixels(2, 3, 32, 32)}

    return build


def tiny_paligemma():
    config = transformers.PaliGemmaConfig(
        vision_config={
            **VISION,
            "image_size": 32,
            "patch_size": 8,
            "projection_dim": 32,
            "model_type": "siglip_vision_model",
        },
        text_config={**TEXT, "model_type": "gemma", "head_dim": 8},
        image_token_index=IMAGE,
        projection_dim=32,
        hidden_size=32,
    )
    model = _build(transformers.PaliGemmaForConditionalGeneration, config)
    inputs = {**_prompts([IMAGE] * 16), "pixel_values": _pixels(2, 3, 32, 32)}
    return model, {**inputs, "token_type_ids": torch.zeros_like(inputs["input_ids"])}


def tiny_gemma3():
    """Local and global attention in turn, norms around both halves of a layer."""
    config = transformers.Gemma3Config(
        vision_config={**VISION, "image_size": 32, "patch_size": 8, "model_type": "siglip_vision_model"},
        text_config={
            **TEXT,
            "head_dim": 8,
            "sliding_window": 8,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
        },
        mm_tokens_per_image=4,
        image_token_index=IMAGE,
        boi_token_index=5,
        eoi_token_index=6,
    )
    model = _build(transformers.Gemma3ForConditionalGeneration, config)
    inputs = {**_prompts([IMAGE] * 4), "pixel_values": _pixels(2, 3, 32, 32)}
    return model, {**inputs, "token_type_ids": (inputs["input_ids"] == IMAGE).long()}


def tiny_mllama():
    """Layers of cross-attention to the picture inside the decoder's own list."""
    config = transformers.MllamaConfig(
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_global_layers": 1,
            "attention_heads": 2,
            "vision_output_dim": 64,
            "image_size": 32,
            "patch_size": 8,
            "intermediate_layers_indices": [1],
            "supported_aspect_ratios": [[1, 1]],
            "max_num_tiles": 1,
        },
        text_config={**TEXT, "cross_attention_layers": [1], "rope_scaling": {"rope_type": "default"}},
        image_token_index=IMAGE,
    )
    model = _build(transformers.MllamaForConditionalGeneration, config)
    with torch.no_grad():  # cross-attention starts shut, and would never look at the picture
        for name, parameter in model.named_parameters():
            if name.endswith("cross_attn_attn_gate") or name.endswith("cross_attn_mlp_gate"):
                parameter.fill_(0.5)
    inputs = _prompts([IMAGE])
    length = inputs["input_ids"].shape[1]
    return model, {
        **inputs,
        "pixel_values": _pixels(2, 1, 1, 3, 32, 32),
        "aspect_ratio_ids": torch.ones(2, 1, dtype=torch.long),
        "aspect_ratio_mask": torch.ones(2, 1, 1, dtype=torch.long),
        "cross_attention_mask": torch.ones(2, length, 1, 1, dtype=torch.long),
    }


def tiny_qwen3_vl_moe():
    """Pictures enter at several depths; every FFN is a MoE block that returns its output alone."""
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 2,
        "out_hidden_size": 32,
        "patch_size": 4,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "num_position_embeddings": 16,
        "deepstack_visual_indexes": [0, 1],
    }
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    text = {**TEXT, **MOE, "num_experts": 4, "head_dim": 8, "rope_parameters": rope}
    config = transformers.Qwen3VLMoeConfig(
        vision_config=vision,
        text_config=text,
        **QWEN_TOKENS,
    )
    model = _build(transformers.Qwen3VLMoeForConditionalGeneration, config)
    return model, qwen_inputs()


def _blip2(text: transformers.PreTrainedConfig):
    config = transformers.Blip2Config(
        vision_config={**VISION, "image_size": 32, "patch_size": 8},
        qformer_config={**VISION, "vocab_size": VOCAB, "encoder_hidden_size": 32},
        text_config=text.to_dict(),
        num_query_tokens=4,
        image_token_index=IMAGE,
    )
    model = _build(transformers.Blip2ForConditionalGeneration, config)
    inputs = {**_prompts([IMAGE] * 4), "pixel_values": _pixels(2, 3, 32, 32)}
    return model, inputs


def tiny_blip2_opt():
    """FFN of two linear maps that lie in the layer itself."""
    return _blip2(transformers.OPTConfig(**TEXT, ffn_dim=64, word_embed_proj_dim=32))


def tiny_blip2_t5():
    """Encoder and decoder with FFNs inside a part that adds norm and residual."""
    text = transformers.T5Config(
        vocab_size=VOCAB,
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=4,
        num_decoder_layers=4,
        num_heads=4,
        pad_token_id=PAD,
        decoder_start_token_id=PAD,
    )
    model, inputs = _blip2(text)
    return model, {**inputs, "decoder_input_ids": _prompts([])["input_ids"]}


def tiny_florence2():
    """BART behind pictures: encoder and decoder, FFN in the layer itself, norms after."""
    config = transformers.Florence2Config(
        vision_config={
            "depths": [1, 1],
            "embed_dim": [16, 32],
            "num_heads": [2, 2],
            "num_groups": [2, 2],
            "patch_size": [7, 3],
            "patch_stride": [4, 2],
            "patch_padding": [3, 1],
            "patch_prenorm": [False, True],
            "window_size": 4,
            "projection_dim": 32,
        },
        text_config={
            "model_type": "bart",
            "vocab_size": VOCAB,
            "d_model": 32,
            "encoder_layers": 2,
            "decoder_layers": 4,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
            "encoder_ffn_dim": 64,
            "decoder_ffn_dim": 64,
            "max_position_embeddings": 128,
            "pad_token_id": PAD,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "decoder_start_token_id": 2,
            "forced_eos_token_id": None,
        },
        image_token_id=IMAGE,
    )
    model = _build(transformers.Florence2ForConditionalGeneration, config)
    inputs = {**_prompts([IMAGE] * 17), "pixel_values": _pixels(2, 3, 32, 32)}
    return model, {**inputs, "decoder_input_ids": _prompts([])["input_ids"]}


def tiny_blip():
    """BERT as decoder: each half of the FFN in a part of its own, the second with norm and residual."""
    config = transformers.BlipConfig(
        vision_config={**VISION, "image_size": 32, "patch_size": 8},
        text_config={**TEXT, "encoder_hidden_size": 32, "sep_token_id": 2},
        projection_dim=32,
    )
    model = _build(transformers.BlipForConditionalGeneration, config)
    return model, {**_prompts([]), "pixel_values": _pixels(2, 3, 32, 32)}


def tiny_kosmos2():
    config = transformers.Kosmos2Config(
        vision_config={**VISION, "image_size": 32, "patch_size": 8},
        text_config={
            "vocab_size": VOCAB,
            "embed_dim": 32,
            "ffn_dim": 64,
            "layers": 4,
            "attention_heads": 4,
            "max_position_embeddings": 128,
            "pad_token_id": PAD,
        },
        latent_query_num=4,
    )
    model = _build(transformers.Kosmos2ForConditionalGeneration, config)
    inputs = _prompts([IMAGE] * 4)
    inputs["image_embeds_position_mask"] = (inputs["input_ids"] == IMAGE).long()
    return model, {**inputs, "pixel_values": _pixels(2, 3, 32, 32)}


def tiny_fuyu():
    """No vision tower: patches go straight into the decoder."""
    config = transformers.FuyuConfig(
        **TEXT, text_config={"model_type": "persimmon", **TEXT}, patch_size=4, image_token_id=IMAGE
    )
    model = _build(transformers.FuyuForCausalLM, config)
    inputs = _prompts([IMAGE] * 4)
    inputs["image_patches"] = _pixels(2, 4, 48)
    inputs["image_patches_indices"] = torch.full_like(inputs["input_ids"], -1)
    for row, ids in enumerate(inputs["input_ids"]):
        inputs["image_patches_indices"][row, ids == IMAGE] = torch.arange(4)
    return model, inputs


def tiny_git():
    """BERT over picture and text in one sequence."""
    config = transformers.GitConfig(vision_config={**VISION, "image_size": 32, "patch_size": 8}, **TEXT)
    model = _build(transformers.GitForCausalLM, config)
    return model, {**_prompts([]), "pixel_values": _pixels(2, 3, 32, 32)}


ZOO: dict[str, Callable] = {
    "llava": tiny_llava,
    "qwen2_5_vl": tiny_qwen2_5_vl,
    "smolvlm": tiny_smolvlm,
    "internvl, qwen2": tiny_internvl,
    "qwen2_moe with a shared expert": tiny_llava_moe,
    "paligemma": tiny_paligemma,
    "gemma3": tiny_gemma3,
    "mllama": tiny_mllama,
    "qwen3_vl_moe": tiny_qwen3_vl_moe,
    "blip-2, opt": tiny_blip2_opt,
    "blip-2, t5": tiny_blip2_t5,
    "florence2": tiny_florence2,
    "blip, bert": tiny_blip,
    "kosmos-2": tiny_kosmos2,
    "fuyu": tiny_fuyu,
    "git, bert": tiny_git,
    "phi3, fused": llava_around("phi3"),
    "gpt_neox, parallel residual": llava_around("gpt_neox"),
    "starcoder2, two matrices": llava_around("starcoder2", use_bias=True),
    "mixtral": llava_around("mixtral", num_local_experts=4, num_experts_per_tok=2),
    "granitemoeshared": llava_around(
        "granitemoeshared", num_local_experts=4, num_experts_per_tok=2, shared_intermediate_size=32
    ),
    "deepseek_v3": llava_around(
        "deepseek_v3",
        n_routed_experts=4,
        n_shared_experts=1,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        n_group=1,
        topk_group=1,
        first_k_dense_replace=1,
        q_lora_rank=16,
        kv_lora_rank=16,
        qk_rope_head_dim=8,
        qk_nope_head_dim=8,
        v_head_dim=8,
        num_key_value_heads=4,
    ),
    "olmo2, norms after": llava_around("olmo2"),
    "cohere, parallel": llava_around("cohere"),
    "jamba, mamba and MoE": llava_around(
        "jamba",
        num_experts=4,
        num_experts_per_tok=2,
        attn_layer_period=2,
        attn_layer_offset=1,
        expert_layer_period=2,
        expert_layer_offset=1,
        use_mamba_kernels=False,
        mamba_d_state=4,
        mamba_dt_rank=4,
    ),
    "qwen3_next, linear attention": llava_around(
        "qwen3_next",
        **MOE,
        num_experts=4,
        shared_expert_intermediate_size=16,
        head_dim=8,
        linear_num_value_heads=4,
        linear_num_key_heads=2,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
    ),
    "gpt_oss": llava_around("gpt_oss", num_local_experts=4, num_experts_per_tok=2, head_dim=8, sliding_window=8),
}
