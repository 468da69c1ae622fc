"""Make the pocket VAE: a small AutoencoderKL of diffusers that turns rendered pictures into latents and back.

    python -m lynx_moe.pocket.vae --data outputs/quickstart/data --out lynx_moe/pocket/vae_weights

Twenty minutes on one core, for `objective.reconstruction` on the pocket base. Trained on crops, since it is mostly
convolutions; where it ends, its config says by which shift and scale its latents have mean 0 and variance 1.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lynx_moe.data import load_records


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """What decides the weights, besides the data and, where time ends it, the machine's speed.

    Loss, KL weight and all the rest: our choice.
    """

    steps: int = 8000
    seconds: float = 1800.0  # no step after that; the learning rate follows whichever ends first
    batch: int = 4
    crop: int = 64  # with 32 colours drift on whole pictures, whose means and deviations norms see instead
    lr: float = 4e-3
    kl: float = 1e-4  # of nats per latent number, beside the mean squared error of pixels in -1..1
    pictures: int = 2000
    seed: int = 0


def build(channels: tuple[int, ...] = (16, 24, 24), latent_channels: int = 2) -> Any:
    """An untrained AutoencoderKL that makes each square of 4 x 4 pixels one latent vector, with little noise at first.

    Shallow, because a deeper one learns too slowly for minutes on a core.
    """
    from diffusers import AutoencoderKL

    model = AutoencoderKL(
        block_out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        latent_channels=latent_channels,
        layers_per_block=1,
        norm_num_groups=2,  # with as many groups as channels a picture's mean colour could not come out
        sample_size=128,
    )
    with torch.no_grad():
        # Else the posterior's own noise hides, for hundreds of steps, what the encoder has to say.
        model.quant_conv.weight[latent_channels:] *= 0.1
        model.quant_conv.bias[latent_channels:] = -6.0
    return model


def pictures_of(folder: Path, split: str, limit: int) -> list[np.ndarray]:
    """RGB pictures of a folder of records, each (H, W, 3) uint8, each once."""
    records = load_records(folder, split)
    first = [group[0] for group in records.by_picture() if records.sizes(group[0])]
    return [np.asarray(records[position].image(0).convert("RGB")) for position in first[:limit]]


def crops(pictures: list[np.ndarray], count: int, side: int, rng: np.random.Generator) -> Tensor:
    """(count, 3, side, side) random squares of random pictures, half of them mirrored, in -1..1."""
    made = []
    for k in rng.integers(len(pictures), size=count):
        height, width = pictures[k].shape[:2]
        top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
        cut = pictures[k][top : top + side, left : left + side]
        made.append(cut[:, ::-1] if rng.random() < 0.5 else cut)
    return torch.from_numpy(np.stack(made)).permute(0, 3, 1, 2).float() / 127.5 - 1


def train(data: Path, out: Path, recipe: Recipe) -> dict[str, float]:
    """Trains, saves config and weights (float16 safetensors) in `out`, and tells what held-out pictures lose.

    Returns:
        "steps", "psnr" in dB of reconstructions of 200 held-out crops from their posteriors' means, and "blank", that
        of their mean colour.
    """
    torch.manual_seed(recipe.seed)
    rng = np.random.default_rng(recipe.seed)
    pictures, held_out = (pictures_of(data, s, n) for s, n in (("train", recipe.pictures), ("validation", 200)))
    model = build()
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.lr, betas=(0.9, 0.99), weight_decay=0.0)
    began, taken = time.monotonic(), 0
    for step in range(recipe.steps):
        done = max(step / recipe.steps, (time.monotonic() - began) / recipe.seconds)
        if done >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr * min(1.0, (step + 1) / 50) * 0.5 * (1 + np.cos(np.pi * done))
        seen = crops(pictures, recipe.batch, recipe.crop, rng)
        posterior = model.encode(seen).latent_dist
        error = (model.decode(posterior.sample()).sample - seen).pow(2).mean()
        spread = 0.5 * (posterior.mean.pow(2) + posterior.var - 1 - posterior.logvar).mean()
        optimizer.zero_grad()
        (error + recipe.kl * spread).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        taken += 1
        if step % 100 == 0:
            print(f"step {step}: error {error:.4f}, {spread:.2f} nats, {time.monotonic() - began:.0f} s", flush=True)
    model.eval()
    with torch.no_grad():
        latents = torch.cat([model.encode(crops(pictures, 50, recipe.crop, rng)).latent_dist.mean for _ in range(8)])
        model.register_to_config(shift_factor=latents.mean().item(), scaling_factor=1 / latents.std().item())
        seen = crops(held_out, 200, recipe.crop, rng)
        found = model.decode(model.encode(seen).latent_dist.mean).sample
        blank = seen.mean(dim=(2, 3), keepdim=True)
    model.half().save_pretrained(out)
    return {"steps": taken, "psnr": psnr(found, seen), "blank": psnr(blank.expand_as(seen), seen)}


def psnr(found: Tensor, true: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of pictures in -1..1."""
    return (10 * torch.log10(4 / (found.clamp(-1, 1) - true).pow(2).mean())).item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of records with splits train and validation")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=Recipe().seconds)
    options = parser.parse_args()
    print(train(options.data, options.out, Recipe(seconds=options.seconds)))


if __name__ == "__main__":
    main()
