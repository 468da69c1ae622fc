"""Latents of a variational autoencoder (diffusers' AutoencoderKL): FLUX's, Stable Diffusion's, or the pocket one."""

from __future__ import annotations

import json
from importlib.resources import files

import torch
from torch import Tensor, nn

from lynx_moe.errors import ConfigError
from lynx_moe.objectives.tokenizers.base import TOKENIZERS, NetworkTokenizer


@TOKENIZERS.register("vae")
class KL(NetworkTokenizer):
    """(z - shift) * scale, z from the posterior; shift and scale are those of its config.

    ROSS folds 2 x 2 neighbours of an 8-fold VAE into a token, which is then 16 x 16 pixels.
    """

    usual_fold = 2

    def __init__(self, path: str | None = None, fold: int | None = None):
        super().__init__(path, fold)
        config = json.loads((self.folder / "config.json").read_text(encoding="utf-8"))
        if config.get("_class_name") != "AutoencoderKL":
            raise ConfigError(
                f"{self.path} holds {config.get('_class_name', 'no diffusers model')}",
                why="latents are those of an AutoencoderKL",
                fix="give the folder of one, often called vae inside that of its pipeline",
            )
        self.stride = 2 ** (len(config["block_out_channels"]) - 1)
        self.depth = config["latent_channels"]
        # FLUX's config has both, Stable Diffusion's no shift.
        self.shift, self.scale = config.get("shift_factor") or 0.0, config.get("scaling_factor") or 1.0

    def load(self) -> tuple[nn.Module, list[str]]:
        try:
            from diffusers import AutoencoderKL
        except ImportError:
            raise ConfigError(
                "latents of a VAE need diffusers, which is not installed",
                why="the tokenizers vae and pocket are its AutoencoderKL",
                fix="pip install 'lynx-moe[reconstruction]', or objective.reconstruction.tokenizer=pixels",
            ) from None
        model, found = AutoencoderKL.from_pretrained(
            self.folder, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
        return model, found["missing_keys"]

    @torch.no_grad()
    def encode(self, picture_3HW: Tensor) -> dict[str, Tensor]:
        latent = self.network.to(picture_3HW.device).encode(picture_3HW[None] * 2 - 1).latent_dist
        return {"mean": latent.mean[0], "logvar": latent.logvar[0]}

    def mean(self, known: dict[str, Tensor]) -> Tensor:
        return (known["mean"] - self.shift) * self.scale

    def draw(self, known: dict[str, Tensor], generator: torch.Generator | None = None) -> Tensor:
        mean, deviation = known["mean"], (known["logvar"] / 2).exp()
        noise = torch.randn(mean.shape, generator=generator, device=mean.device)
        return (mean + deviation * noise - self.shift) * self.scale

    def decode(self, map_MYX: Tensor) -> Tensor:
        latent = map_MYX / self.scale + self.shift
        return (self.network.to(map_MYX.device).decode(latent[None]).sample[0] + 1) / 2


@TOKENIZERS.register("pocket")
class Pocket(KL):
    """The small VAE that is shipped beside the pocket base, trained on rendered scenes by `lynx_moe.pocket.vae`.

    It makes 4 x 4 pixels a latent of 2 numbers, so that 4 x 4 neighbours are a token of 16 x 16 pixels.
    """

    usual_fold = 4

    def __init__(self, path: str | None = None, fold: int | None = None):
        # By name, as settings name the pocket base: no room but `pocket` itself knows what is in it.
        super().__init__(path or str(files("lynx_moe.pocket") / "vae_weights"), fold)
