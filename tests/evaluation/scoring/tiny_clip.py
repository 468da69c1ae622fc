"""A CLIP and a SigLIP small enough to save, with a real processor."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers

from tests.tiny import VISION, _build, tiny_tokenizer

TEXT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
SQUARE = {"image_size": 32, "patch_size": 8}


def tiny_clip(kind: str = "clip") -> tuple[transformers.PreTrainedModel, transformers.ProcessorMixin]:
    tokenizer = tiny_tokenizer()
    tokenizer.padding_side = "right"
    text = {**TEXT, "vocab_size": len(tokenizer), "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    size = {"height": 32, "width": 32}
    if kind == "clip":
        config = transformers.CLIPConfig(
            text_config={**text, "max_position_embeddings": 77}, vision_config={**VISION, **SQUARE}, projection_dim=16
        )
        model = _build(transformers.CLIPModel, config)
        images = transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=size)
        return model, transformers.CLIPProcessor(images, tokenizer)
    config = transformers.SiglipConfig(
        text_config={**text, "max_position_embeddings": 64, "projection_size": 32}, vision_config={**VISION, **SQUARE}
    )
    model = _build(transformers.SiglipModel, config)
    return model, transformers.SiglipProcessor(transformers.SiglipImageProcessor(size=size), tokenizer)


def save_clip(folder: Path, kind: str = "clip", dtype: torch.dtype = torch.float32) -> str:
    model, processor = tiny_clip(kind)
    model.to(dtype).save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)
