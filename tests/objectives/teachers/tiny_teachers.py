"""Tiny random teachers of real classes, saved as folders."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import transformers

SIDE = 64


def saved(folder: Path, model: transformers.PreTrainedModel) -> str:
    model.save_pretrained(folder)
    said = {"size": {"height": SIDE, "width": SIDE}, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.2]}
    (folder / "preprocessor_config.json").write_text(json.dumps(said))
    return str(folder)


def sam2() -> transformers.PreTrainedModel:
    backbone = {
        "model_type": "sam2_hiera_det_model", "hidden_size": 8, "image_size": [SIDE, SIDE],
        "blocks_per_stage": [1, 1, 2, 1], "embed_dim_per_stage": [8, 16, 32, 64],
        "num_attention_heads_per_stage": [1, 1, 2, 2], "global_attention_blocks": [3],
        "window_size_per_stage": [4, 4, 4, 4],
    }  # fmt: skip
    config = transformers.Sam2Config(
        vision_config={
            "backbone_config": backbone, "backbone_channel_list": [64, 32, 16, 8], "fpn_hidden_size": 16,
            "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
        },
        prompt_encoder_config={"hidden_size": 16, "image_size": SIDE, "patch_size": 16, "mask_input_channels": 4},
        mask_decoder_config={
            "hidden_size": 16, "mlp_dim": 16, "num_hidden_layers": 1, "num_attention_heads": 1,
            "iou_head_hidden_dim": 16,
        },
    )  # fmt: skip
    return transformers.Sam2Model(config)


def mask2former() -> transformers.PreTrainedModel:
    backbone = {
        "model_type": "swin", "embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "window_size": 2,
        "image_size": SIDE, "out_features": ["stage1", "stage2", "stage3", "stage4"],
    }  # fmt: skip
    config = transformers.Mask2FormerConfig(
        backbone_config=backbone, feature_size=32, mask_feature_size=32, hidden_dim=32, encoder_feedforward_dim=16,
        dim_feedforward=16, encoder_layers=1, decoder_layers=2, num_attention_heads=2, num_queries=4,
    )  # fmt: skip
    return transformers.Mask2FormerForUniversalSegmentation(config)


SMALL = {"num_attention_heads": 2, "image_size": SIDE, "patch_size": 8}


def dinov2() -> transformers.PreTrainedModel:
    return transformers.Dinov2Model(
        transformers.Dinov2Config(hidden_size=16, num_hidden_layers=2, mlp_ratio=2, **SMALL)
    )


def vit_for_classes() -> transformers.PreTrainedModel:
    config = transformers.ViTConfig(hidden_size=16, num_hidden_layers=2, intermediate_size=16, **SMALL)
    return transformers.ViTForImageClassification(config)


def swin() -> transformers.PreTrainedModel:
    return transformers.SwinModel(
        transformers.SwinConfig(embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=2, image_size=SIDE)
    )


def siglip() -> transformers.PreTrainedModel:
    vision = {**SMALL, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2}
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.SiglipConfig(vision_config=vision, text_config={**text, "vocab_size": 20})
    return transformers.SiglipModel(config)


# Kind, maker, and channels, rows and columns of its last map: SIDE over the stride that each class is known for.
TEACHERS = [
    ("sam2", sam2, (16, SIDE // 16, SIDE // 16)),
    ("mask2former", mask2former, (32, SIDE // 4, SIDE // 4)),
    ("backbone", dinov2, (16, SIDE // 8, SIDE // 8)),
    ("backbone", vit_for_classes, (16, SIDE // 8, SIDE // 8)),
    ("backbone", swin, (16, SIDE // 8, SIDE // 8)),
    ("backbone", siglip, (16, SIDE // 8, SIDE // 8)),
]


def made(folder: Path, maker) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    return saved(folder, maker())
