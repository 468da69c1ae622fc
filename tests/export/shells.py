"""Tiny VLMs of every class that takes a foreign text decoder, around any decoder: real classes, with a picture each.

Where making pictures would say more about a vision tower than about the decoder behind it (tiling, two towers, videos)
the prompt is text alone.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import transformers
from transformers import AutoConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

from tests.tiny import IMAGE, PAD, TEXT, VISION, _build, _pixels, _prompts

SMALL = {**VISION, "image_size": 32, "patch_size": 8}
CLIP = {**SMALL, "model_type": "clip_vision_model", "projection_dim": 32}
SIGLIP = {**SMALL, "model_type": "siglip_vision_model"}
PIXTRAL = {**SMALL, "model_type": "pixtral", "head_dim": 16}
SAM = {
    "hidden_size": 32,
    "output_channels": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 64,
    "patch_size": 8,
    "window_size": 4,
    "global_attn_indexes": [1],
    "mlp_dim": 64,
}


@dataclass(frozen=True)
class Shell:
    """The outer config's fields beside `text_config`, tokens of one picture, and what else the model is given."""

    fields: dict
    image_tokens: int = 0
    inputs: Callable[[], dict] = field(default=dict)


def picture(*shape: int, **more) -> Callable[[], dict]:
    return lambda: {"pixel_values": _pixels(*shape), **{name: torch.tensor(value) for name, value in more.items()}}


def _shape(**fields) -> dict:
    return {"image_token_id": IMAGE, **fields}


def _llava(**fields) -> dict:
    return {"vision_config": CLIP, "image_token_index": IMAGE, "vision_feature_layer": -1, **fields}


MINICPM = _shape(vision_config={**SMALL, "insert_layer_id": 0}, insert_layer_id=0, video_token_id=4)
SHELLS = {
    "aya_vision": Shell(_llava(vision_config=SIGLIP), 4, picture(2, 3, 32, 32)),
    "cohere2_vision": Shell(
        _shape(vision_config=SIGLIP, alignment_intermediate_size=64),
        4,
        picture(2, 3, 32, 32),
    ),
    "deepseek_vl": Shell(_shape(vision_config=SIGLIP), 16, picture(2, 3, 32, 32)),
    "deepseek_vl_hybrid": Shell(
        _shape(vision_config=SIGLIP, high_res_vision_config={**SAM, "model_type": "sam_vision_model"})
    ),
    "got_ocr2": Shell({"vision_config": SAM, "image_token_index": IMAGE}),
    "idefics2": Shell(
        _shape(
            vision_config=SMALL,
            perceiver_config={
                "hidden_size": 32,
                "resampler_n_latents": 4,
                "resampler_depth": 1,
                "resampler_n_heads": 4,
                "resampler_head_dim": 8,
                "num_key_value_heads": 2,
            },
        ),
        4,
        picture(2, 1, 3, 32, 32),
    ),
    "idefics3": Shell(_shape(vision_config=SMALL, scale_factor=2, pad_token_id=PAD), 4, picture(2, 1, 3, 32, 32)),
    "internvl": Shell(
        _shape(
            vision_config={**VISION, "image_size": [32, 32], "patch_size": [8, 8]},
            image_seq_length=4,
            downsample_ratio=0.5,
        ),
        4,
        picture(2, 3, 32, 32),
    ),
    "janus": Shell(
        _shape(
            vision_config={**SMALL, "projection_dim": 32, "num_image_tokens": 16},
            vq_config={
                "embed_dim": 8,
                "num_embeddings": 16,
                "latent_channels": 32,
                "base_channels": 32,
                "channel_multiplier": [1],
                "num_res_blocks": 1,
                "projection_dim": 32,
                "image_token_embed_dim": 32,
            },
        ),
        16,
        picture(2, 3, 32, 32),
    ),
    "lighton_ocr": Shell(_shape(vision_config=PIXTRAL), 4, picture(2, 3, 32, 32, image_sizes=[[32, 32], [32, 32]])),
    "llava": Shell(_llava(image_seq_length=16), 16, picture(2, 3, 32, 32)),
    "llava, pixtral": Shell(
        _llava(vision_config=PIXTRAL, vision_feature_select_strategy="full"),
        16,
        picture(2, 3, 32, 32, image_sizes=[[32, 32], [32, 32]]),
    ),
    "llava_next": Shell(
        _llava(image_grid_pinpoints=[[32, 32]]), 16 + 20, picture(2, 2, 3, 32, 32, image_sizes=[[32, 32], [32, 32]])
    ),
    "llava_next_video": Shell(_llava(image_grid_pinpoints=[[32, 32]], video_token_index=4)),
    "llava_onevision": Shell(
        _llava(
            vision_config=SIGLIP,
            video_token_index=4,
            image_grid_pinpoints=[[32, 32]],
            vision_aspect_ratio="anyres_max_9",
        )
    ),
    "minicpm_ocr": Shell(MINICPM),
    "minicpmv4_6": Shell(MINICPM),
    "minicpmv4_7": Shell(MINICPM),
    "mistral3": Shell(
        {"vision_config": PIXTRAL, "image_token_index": IMAGE},
        4,
        picture(2, 3, 32, 32, image_sizes=[[32, 32], [32, 32]]),
    ),
    "ovis2": Shell(
        _shape(
            vision_config={**SMALL, "vocab_size": 64, "num_visual_indicator_tokens": 5, "hidden_stride": 2},
            visual_indicator_token_ids=[4, 5, 6, 7, 8],
            vocab_size=128,
            hidden_size=32,
        )
    ),
    "qianfan_ocr": Shell(
        _shape(
            vision_config={**VISION, "image_size": [32, 32], "patch_size": [8, 8]},
            image_seq_length=4,
            downsample_ratio=0.5,
        ),
        4,
        picture(2, 3, 32, 32),
    ),
    "smolvlm": Shell(_shape(vision_config=SMALL, scale_factor=2, pad_token_id=PAD), 4, picture(2, 1, 3, 32, 32)),
    "video_llama_3": Shell(_shape(vision_config={**VISION, "patch_size": 8}, video_token_id=4)),
    "video_llava": Shell(_llava(video_token_index=4)),
    "vipllava": Shell(_llava(vision_feature_layers=[-1, -2]), 16, picture(2, 3, 32, 32)),
}

DECODERS = {
    "llama": {},
    "mistral": {"sliding_window": None},
    "qwen2": {},
    "qwen3": {"head_dim": 16},
    "qwen2_vl_text": {
        "tie_word_embeddings": False,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]},
    },
    "granite": {"attention_multiplier": 0.2, "residual_multiplier": 0.5, "embedding_multiplier": 3.0},
    "cohere2": {"sliding_window": 8},
    "qwen3_5_text": {
        "head_dim": 16,
        "linear_num_value_heads": 4,
        "linear_num_key_heads": 2,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
    },
}


def text_config(decoder: str, **changed):
    return AutoConfig.for_model(decoder, **{**TEXT, **DECODERS.get(decoder, {}), **changed})


def model_class(config_class: type) -> type:
    found = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[config_class]
    return found[0] if isinstance(found, tuple) else found


def shell(name: str, decoder: str, **text):
    """`(model, inputs)`: the class of `name` around `decoder`, biases and norms with values of their own."""
    made = SHELLS[name]
    config_class = CONFIG_MAPPING[name.split(",")[0]]
    config = config_class(**made.fields, text_config=text_config(decoder, **text))
    model = _build(model_class(config_class), config)
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key.endswith("bias"):
                parameter.normal_(0, 0.3, generator=draw)
            elif "norm" in key and parameter.ndim == 1:
                parameter.uniform_(0.5, 1.5, generator=draw)
    return model, {**_prompts([IMAGE] * made.image_tokens), **made.inputs()}


def tiny_qwen3_5():
    """Dense Qwen3.5: linear and full attention in turn, and a twin class with a shared expert."""
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 2,
        "out_hidden_size": 32,
        "patch_size": 4,
        "num_position_embeddings": 16,
    }
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 0, 1], "partial_rotary_factor": 0.25}
    from tests.tiny import QWEN_TOKENS, qwen_inputs

    text = {**TEXT, **DECODERS["qwen3_5_text"], "rope_parameters": rope}
    config = transformers.Qwen3_5Config(vision_config=vision, text_config=text, **QWEN_TOKENS)
    return _build(transformers.Qwen3_5ForConditionalGeneration, config), qwen_inputs()
