"""A tiny AutoencoderKL of diffusers, saved as its folders are."""

from __future__ import annotations

from pathlib import Path

import torch


def tiny_vae(folder: Path, **more) -> str:
    """Four-fold, two latent channels, with a shift and a scale as FLUX's has them."""
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    config = {"shift_factor": 0.25, "scaling_factor": 2.0, **more}
    model = AutoencoderKL(
        block_out_channels=(4, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=2,
        norm_num_groups=4,
        sample_size=32,
        **config,
    )
    model.save_pretrained(folder)
    return str(folder)
