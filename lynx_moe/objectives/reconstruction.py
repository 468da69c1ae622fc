"""Reconstruction, as ROSS learns it: from the states of its picture tokens the picture must be told again.

From ROSS's code (Haochen-Wang409/ross): a denoiser of the picture's latents, conditioned token by token on the last
states behind the decoder's norm (same places, no shift); epsilon prediction, mean squared error over tokens and
channels, 1000 steps of a cosine schedule, four draws of (t, eps) for each picture and step, one t for all tokens of a
draw; float32; loss weight 1. The target is the picture as the model sees it, at 16 pixels per token. Regression of
pixels or latents instead of denoising is the paper's ablation.

Ours:

- **Pictures are counted.** ROSS's code lets samples without a picture into the mean.
- **The target is the window that the grid covers**, on a grid of any rows and columns; what is beside the picture there
  is grey. Families with tiles are read at the overview.
- **Regression** reads the posterior's mean, through a small MLP on each state.
- On held-out records the draws of a batch are always the same, so that steps compare.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from lynx_moe.data.targets import Target, TargetMaker, Told
from lynx_moe.errors import ConfigError
from lynx_moe.families.picture_grid import picture_grid
from lynx_moe.objectives.base import OBJECTIVES, Objective
from lynx_moe.objectives.denoiser import Denoiser, Regressor
from lynx_moe.objectives.grids import COLUMN, NAMES, ROW, grid_targets
from lynx_moe.objectives.seen import PICTURE, Pictures, in_window
from lynx_moe.objectives.tokenizers import TOKENIZERS, Tokenizer
from lynx_moe.ops.diffusion import cosine_alpha_bar, mean_square, q_sample
from lynx_moe.tensor_store import TensorStore

GREY = (127, 127, 127)


class PictureTargets(TargetMaker):
    """Where a picture's tokens lie on its grid, and the picture itself at `cell` pixels per token."""

    objective = "reconstruction"
    looks_for = "a picture"
    names = NAMES
    reads_pictures = True

    def __init__(self, cell: int):
        self.cell = cell

    def finds(self, targets: Sequence[Target], pictures: int) -> bool:
        return pictures > 0

    def of_text(self, told: Told) -> list[Target]:
        return []

    def of_picture(self, processor: Any, size: tuple[int, int]) -> dict[str, np.ndarray]:
        return grid_targets(processor, size)

    def of_image(self, processor: Any, image: Image.Image) -> dict[str, np.ndarray]:
        """(1, 3, rows * cell, columns * cell) uint8 RGB of the window that the grid covers, grey beside the picture."""
        grid = picture_grid(processor, image.size)
        size = grid.columns * self.cell, grid.rows * self.cell
        return {PICTURE: in_window(image, grid.window, size, GREY)[None]}


@OBJECTIVES.register("reconstruction")
class Reconstruction(Objective):
    """Tells each picture again from its tokens' states; nothing of it is needed to answer.

    Args:
        states: width of the decoder's states.
        weight: in the loss. predict: "denoise" or "regress".
        tokenizer, path, fold: in what pictures are told, see `Tokenizer`.
        through_decoder: regress pixels through the tokenizer's frozen decoder.
        width, depth, heads: of the denoiser. draws: of (t, eps) for each picture and step.
        cache_dir: folder where latents are kept on disk; None for nowhere.

    Raises:
        ConfigError: the tokenizer is unknown, there is nothing usable at its path, or a denoiser is too narrow for it.
    """

    terms = ("reconstruction",)

    def __init__(
        self,
        states: int,
        *,
        weight: float,
        predict: str,
        tokenizer: str,
        path: str | None,
        fold: int | None,
        through_decoder: bool,
        width: int,
        depth: int,
        heads: int,
        draws: int,
        cache_dir: str | None,
    ):
        super().__init__()
        self.weights = (weight,)
        self.tokenizer: Tokenizer = TOKENIZERS.get(tokenizer)(path, fold)
        self.through_decoder = through_decoder
        self.draws = draws
        self.cache_dir = cache_dir
        self._store: TensorStore | None = None
        channels = self.tokenizer.channels
        self.net: nn.Module
        if predict == "denoise":
            if width < channels:
                raise ConfigError(
                    f"objective.reconstruction.width is {width}, and tokens of {tokenizer} have {channels} numbers",
                    why="noise has no pattern that a narrower network could tell it by: the loss could not fall",
                    fix=f"objective.reconstruction.width={4 * channels}, a smaller fold, or predict=regress",
                )
            self.net = Denoiser(states=states, channels=channels, width=width, depth=depth, heads=heads)
        else:
            self.net = Regressor(states=states, channels=channels, width=width)

    @classmethod
    def target_maker(cls, settings: dict[str, Any]) -> TargetMaker:
        made = TOKENIZERS.get(settings["tokenizer"])(settings["path"], settings["fold"])
        return PictureTargets(made.cell)

    @property
    def goes_with(self) -> dict[str, str]:
        return {f"the tokenizer {type(self.tokenizer).__name__}": self.tokenizer.identity}

    @property
    def denoises(self) -> bool:
        return isinstance(self.net, Denoiser)

    def counts(self, batch: dict[str, Tensor]) -> Tensor:
        """How many pictures the rows show; one that several packed records share is one."""
        return ((batch[ROW] == 1) & (batch[COLUMN] == 1)).sum()[None].float()

    def forward(self, states_BLD: Tensor, batch: dict[str, Tensor]) -> Tensor:
        return self.lost(Pictures.of(states_BLD, batch, self.tokenizer.cell))[None]

    def lost(self, seen: Pictures) -> Tensor:
        """() the sum over pictures of what is lost of each, in numbers of its tokens (of noise, where it denoises)."""
        if self.through_decoder:
            return self._through_decoder(seen)
        drawn = self._generator(seen)
        clean_PNC = seen.states_PND.new_zeros(*seen.is_token_PN.shape, self.tokenizer.channels)
        for picture, (grid, pixels_3HW) in enumerate(zip(seen.grids, seen.pixels, strict=True)):
            known = self.known(pixels_3HW)
            map_MYX = self.tokenizer.draw(known, drawn) if self.denoises else self.tokenizer.mean(known)
            clean_PNC[picture, : grid[0] * grid[1]] = self.tokenizer.tokens(map_MYX, grid)
        if self.denoises:
            return self._denoising(clean_PNC, seen, drawn)
        return mean_square(self.net(seen.states_PND), clean_PNC, seen.is_token_PN).sum()

    def _through_decoder(self, seen: Pictures) -> Tensor:
        """() the sum over pictures of the mean square of the decoded picture's pixels, in 0..1."""
        told_PNC = self.net(seen.states_PND)
        # No picture: a sum of nothing, with the head's gradient of zero.
        lost = told_PNC.sum() * 0
        for told_NC, grid, pixels_3HW in zip(told_PNC, seen.grids, seen.pixels, strict=True):
            lost = lost + (self.picture(told_NC[: grid[0] * grid[1]], grid) - pixels_3HW).pow(2).mean()
        return lost

    def _denoising(self, clean_PNC: Tensor, seen: Pictures, generator: torch.Generator | None) -> Tensor:
        """() the sum over pictures of the mean over their draws."""
        clean_BNC, copies = clean_PNC.repeat_interleave(self.draws, dim=0), seen.repeated(self.draws)
        device = clean_BNC.device
        alpha_bar_S = cosine_alpha_bar().to(device)
        time_B = torch.randint(len(alpha_bar_S), (len(clean_BNC),), generator=generator, device=device)
        noise_BNC = torch.randn(clean_BNC.shape, generator=generator, device=device)
        noisy_BNC = q_sample(clean_BNC, noise_BNC, alpha_bar_S[time_B])
        told_BNC = self.net(noisy_BNC, time_B, copies.states_PND, copies.place_PN2, copies.is_token_PN)
        return mean_square(told_BNC, noise_BNC, copies.is_token_PN).sum() / self.draws

    def known(self, pixels_3HW: Tensor) -> dict[str, Tensor]:
        """What the tokenizer knows of a picture (0..1), from disk where it is kept.

        One picture at a time, so that it does not depend, to the last bit, on what is beside it.
        """
        if self.cache_dir is None or not self.tokenizer.caches:
            return self.tokenizer.encode(pixels_3HW)
        if self._store is None:
            about = {"kind": "latents", "tokenizer": self.tokenizer.identity, "torch": torch.__version__}
            self._store = TensorStore(
                Path(self.cache_dir),
                about,
                name="the cache of latents",
                without="objective.reconstruction.cache_dir=null",
            )
        content = (pixels_3HW * 255).round().to(torch.uint8).cpu().contiguous()
        key = self._store.key(f"{tuple(content.shape)}".encode() + content.numpy().tobytes())
        made = self._store.made(key, lambda: self.tokenizer.encode(pixels_3HW))
        return {name: value.to(pixels_3HW.device) for name, value in made.items()}

    def picture(self, tokens_NC: Tensor, grid: tuple[int, int]) -> Tensor:
        """(3, H, W) the picture of tokens, in about 0..1, with a gradient."""
        return self.tokenizer.decode(self.tokenizer.map(tokens_NC, grid))

    def _generator(self, seen: Pictures) -> torch.Generator | None:
        """The process's own random numbers while it trains, which a resumed run restores; else the batch's own."""
        if self.training or not seen.pixels:
            return None
        seed = int(sum((pixels * 255).sum() for pixels in seen.pixels))
        return torch.Generator(seen.pixels[0].device).manual_seed(seed)
