"""Further tiny families with their processors, for the grids of their picture tokens."""

from __future__ import annotations

import pytest
import transformers

from tests.families.test_picture_grid import ROPE, SIGLIP, SQUARE, text_of, tokenizer_with, without_video
from tests.tiny import IMAGE, VISION, _build
from tests.tiny_fuyu import tiny_fuyu_with_processor


def mistral3():
    """Pixtral's pictures: at their own size, each row of tokens ended by one that is no cell."""
    tokenizer = tokenizer_with(image_break_token="[IMG_BREAK]", image_end_token="[IMG_END]")
    images = transformers.PixtralImageProcessorPil(patch_size={"height": 8, "width": 8}, size={"longest_edge": 64})
    pytest.importorskip("torchvision", reason="its processor's module imports it", exc_type=ImportError)
    kind = transformers.PixtralProcessor
    processor = without_video(
        kind, images, tokenizer, patch_size=4, spatial_merge_size=2, image_break_token="[IMG_BREAK]",
        image_end_token="[IMG_END]",
    )  # fmt: skip
    config = transformers.Mistral3Config(
        vision_config={**VISION, "model_type": "pixtral", "image_size": 64, "patch_size": 4, "head_dim": 16},
        text_config={**text_of(tokenizer), "model_type": "mistral", "head_dim": 8},
        image_token_index=IMAGE,
        spatial_merge_size=2,
        vision_feature_layer=-1,
    )
    return _build(transformers.Mistral3ForConditionalGeneration, config), processor


def glm46v():
    model, processor = glm4v()
    return model, without_video(
        transformers.Glm46VProcessor, processor.image_processor, processor.tokenizer,
        video_start_id=processor.video_start_id, video_end_id=processor.video_end_id,
    )  # fmt: skip


def glm4v():
    tokenizer = tokenizer_with(video_token="<video>", begin="<|begin_of_video|>", end="<|end_of_video|>")
    images = transformers.Glm4vImageProcessorPil(
        patch_size=4, merge_size=2, size={"shortest_edge": 64, "longest_edge": 8192}
    )
    processor = without_video(
        transformers.Glm4vProcessor, images, tokenizer, video_start_id=tokenizer.begin_id, video_end_id=tokenizer.end_id
    )
    config = transformers.Glm4vConfig(
        vision_config={
            "depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 32,
            "patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2, "image_size": 64,
        },
        text_config={**text_of(tokenizer), "head_dim": 8, "rope_parameters": {**ROPE, "partial_rotary_factor": 1.0}},
        image_token_id=IMAGE,
        video_token_id=tokenizer.video_token_id,
        image_start_token_id=tokenizer.begin_id,
        image_end_token_id=tokenizer.end_id,
        video_start_token_id=tokenizer.begin_id,
        video_end_token_id=tokenizer.end_id,
    )  # fmt: skip
    return _build(transformers.Glm4vForConditionalGeneration, config), processor


def deepseek_vl():
    tokenizer = tokenizer_with()
    tokenizer.image_token = "<image>"
    images = transformers.DeepseekVLImageProcessorPil(size=SQUARE)
    processor = transformers.DeepseekVLProcessor(image_processor=images, tokenizer=tokenizer, num_image_tokens=16)
    config = transformers.DeepseekVLConfig(
        vision_config=SIGLIP, text_config={**text_of(tokenizer), "model_type": "llama"}, image_token_id=IMAGE
    )
    return _build(transformers.DeepseekVLForConditionalGeneration, config), processor


def janus():
    tokenizer = tokenizer_with(boi_token="<boi>", eoi_token="<eoi>")
    tokenizer.image_token = "<image>"
    images = transformers.JanusImageProcessorPil(size=SQUARE)
    processor = transformers.JanusProcessor(image_processor=images, tokenizer=tokenizer, num_image_tokens=16)
    vision = {**VISION, "image_size": 32, "patch_size": 8, "projection_dim": 32, "mlp_ratio": 2.0, "depth": 1}
    vq = {
        "embed_dim": 8, "num_embeddings": 16, "base_channels": 32, "channel_multiplier": [1, 1], "num_res_blocks": 1,
        "image_token_embed_dim": 32, "projection_dim": 32, "latent_channels": 32, "num_patches": 16,
    }  # fmt: skip
    config = transformers.JanusConfig(
        vision_config=vision, text_config={**text_of(tokenizer), "model_type": "llama"}, vq_config=vq,
        image_token_id=IMAGE,
    )  # fmt: skip
    return _build(transformers.JanusForConditionalGeneration, config), processor


VQ = {
    "embed_dim": 8, "num_embeddings": 24, "double_latent": False, "latent_channels": 8, "in_channels": 3,
    "base_channels": 32, "channel_multiplier": [1, 1, 1], "num_res_blocks": 1, "attn_resolutions": [],
    "dropout": 0.0, "attn_type": "vanilla",
}  # fmt: skip


def chameleon():
    """No vision tower: a picture is words of a codebook."""
    tokenizer = tokenizer_with(boi_token="<boi>", eoi_token="<eoi>", sep_token="<sep>")
    words = [f"IMGIMG{a}{b}Z" for a in "ABCD" for b in "ABCDEF"]
    tokenizer.add_tokens(words, special_tokens=True)
    tokenizer.image_token = "<image>"
    images = transformers.ChameleonImageProcessorPil(size={"shortest_edge": 32}, crop_size=SQUARE)
    processor = transformers.ChameleonProcessor(image_processor=images, tokenizer=tokenizer, image_seq_length=64)
    config = transformers.ChameleonConfig(
        **text_of(tokenizer), vq_config={**VQ, "resolution": 32}, vocabulary_map=tokenizer.get_vocab(),
        image_token_id=IMAGE,
    )  # fmt: skip
    return _build(transformers.ChameleonForConditionalGeneration, config), processor


def emu3():
    """No vision tower: words of a codebook, each row of them ended by one that is no cell."""
    tokenizer = tokenizer_with(
        boi_token="<boi>", eoi_token="<eoi>", image_wrapper_token="<wrap>", eof_token="<eof>", eol="<|extra_200|>"
    )
    words = [f"<|visual token {k:06d}|>" for k in range(24)]
    tokenizer.add_tokens(words, special_tokens=True)
    tokenizer.image_token, tokenizer.image_token_id = "<image>", IMAGE
    images = transformers.Emu3ImageProcessor(min_pixels=32 * 32, max_pixels=64 * 64, spatial_factor=8)
    processor = transformers.Emu3Processor(image_processor=images, tokenizer=tokenizer)
    vq = {
        "codebook_size": 24, "embed_dim": 8, "latent_channels": 8, "double_latent": False, "in_channels": 3,
        "out_channels": 3, "temporal_downsample_factor": 1, "base_channels": 32, "channel_multiplier": [1, 1, 1, 1],
        "num_res_blocks": 1, "attn_resolutions": [], "hidden_size": 32, "num_attention_heads": 1,
    }  # fmt: skip
    config = transformers.Emu3Config(
        vq_config=vq, text_config={**text_of(tokenizer), "model_type": "emu3_text_model"},
        vocabulary_map=tokenizer.get_vocab(), image_token_id=IMAGE,
    )  # fmt: skip
    return _build(transformers.Emu3ForConditionalGeneration, config), processor


def aya_vision():
    tiles = {f"tile{k}": f"<tile>_{k}" for k in range(1, 6)}
    tokenizer = tokenizer_with(start="<soi>", end="<eoi>", patch="<patch>", tile="<tile>", over="<overview>", **tiles)
    images = transformers.GotOcr2ImageProcessorPil(size=SQUARE, crop_to_patches=True, max_patches=4)
    processor = transformers.AyaVisionProcessor(
        image_processor=images, tokenizer=tokenizer, patch_size=4, img_size=32, image_token="<image>",
        downsample_factor=2, start_of_img_token="<soi>", end_of_img_token="<eoi>", img_patch_token="<patch>",
        tile_token="<tile>", tile_global_token="<overview>",
    )  # fmt: skip
    config = transformers.AyaVisionConfig(
        vision_config={**SIGLIP, "patch_size": 4, "vision_use_head": False},
        text_config={**text_of(tokenizer), "model_type": "cohere2", "head_dim": 8},
        image_token_index=tokenizer.patch_id,
        downsample_factor=2,
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
        alignment_intermediate_size=64,
    )
    return _build(transformers.AyaVisionForConditionalGeneration, config), processor


def ovis2():
    names = ("IMG_START", "IMG_ATOM", "IMG_GRID", "IMG_COL", "IMG_ROW", "IMG_END")
    tokenizer = tokenizer_with(**{name.lower(): f"<{name}>" for name in names})
    images = transformers.Ovis2ImageProcessorPil(size=SQUARE, crop_to_patches=True, max_patches=4)
    processor = transformers.Ovis2Processor(image_processor=images, tokenizer=tokenizer, image_seq_length=16)
    ids = [tokenizer.convert_tokens_to_ids(f"<{name}>") for name in names if name != "IMG_ATOM"]
    config = transformers.Ovis2Config(
        vision_config={
            **VISION, "image_size": 32, "patch_size": 4, "hidden_stride": 2, "vocab_size": 40,
            "num_visual_indicator_tokens": 5, "tokenize_function": "softmax",
        },
        text_config={**text_of(tokenizer), "model_type": "qwen2"},
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_ATOM>"),
        visual_indicator_token_ids=ids,
        vocab_size=len(tokenizer),
        hidden_size=32,
    )  # fmt: skip
    return _build(transformers.Ovis2ForConditionalGeneration, config), processor


LOOKED_AT = [mistral3, glm4v, glm46v, deepseek_vl, janus, aya_vision, ovis2, tiny_fuyu_with_processor]
WORDS = [chameleon, emu3]
