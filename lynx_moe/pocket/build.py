"""The pocket base's architecture: a stock LLaVA of 3.2 million parameters (SigLIP-style ViT, Llama decoder)."""

from __future__ import annotations

from transformers import (
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    SiglipVisionConfig,
)
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

SIDE, PATCH, WIDTH = 128, 16, 160


def build_model(tokenizer: PreTrainedTokenizerFast) -> LlavaForConditionalGeneration:
    """A freshly initialised pocket model for ``tokenizer``; SigLIP has no class token, so every feature is a patch."""
    vision = SiglipVisionConfig(
        hidden_size=WIDTH, intermediate_size=4 * WIDTH, num_hidden_layers=4, num_attention_heads=5,
        image_size=SIDE, patch_size=PATCH, vision_use_head=False,
    )  # fmt: skip
    text = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=448, num_hidden_layers=5,
        num_attention_heads=5, num_key_value_heads=5, max_position_embeddings=1024, tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=(SIDE // PATCH) ** 2, vision_feature_layer=-1, vision_feature_select_strategy="full",
        tie_word_embeddings=True,
    )  # fmt: skip
    # At this size on a CPU the backward of sdpa is slow: training was quicker with eager attention.
    config._attn_implementation = "eager"
    model = LlavaForConditionalGeneration(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.bos_token_id = tokenizer.bos_token_id
    return model


def build_processor(tokenizer: PreTrainedTokenizerFast) -> LlavaProcessor:
    """Pads a picture to a square, resizes it to ``SIDE`` and scales pixels to -1..1."""
    images = LlavaImageProcessorPil(
        do_pad=True, size={"height": SIDE, "width": SIDE}, do_center_crop=False, image_mean=[0.5] * 3,
        image_std=[0.5] * 3, do_convert_rgb=True,
    )  # fmt: skip
    return LlavaProcessor(
        image_processor=images, tokenizer=tokenizer, patch_size=PATCH, vision_feature_select_strategy="full",
        num_additional_image_tokens=0, chat_template=tokenizer.chat_template,
    )  # fmt: skip
