"""The frozen encoder's features of pictures, as the language model behind it gets them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor, nn

from lynx_moe.data import SampleBuilder
from lynx_moe.errors import FamilyError

NAMES = ("vision_tower", "vision_model", "visual", "vision_embed_tokens")
BATCH = 64


def tower_of(model: nn.Module) -> nn.Module:
    """The vision tower inside a VLM.

    Raises:
        FamilyError: there is none by a name that is known.
    """
    for name, module in model.named_modules():
        if name.rpartition(".")[2] in NAMES:
            return module
    raise FamilyError(
        f"{type(model).__name__} has no vision tower that is known", why=f"none is called {', '.join(NAMES)}",
        fix="use a base with a CLIP or SigLIP tower, or add its tower's name to lynx_moe/perception/tower.py",
    )  # fmt: skip


@torch.no_grad()
def features(model: nn.Module, builder: SampleBuilder, images: Sequence[Image.Image]) -> tuple[Tensor, Tensor | None]:
    """(N, P, D) features of patches in raster order, and (N, D) of the class token where the tower has one.

    Those of the layer that the language model reads, float32 on the CPU.

    Raises:
        FamilyError: no tower is known, or it gives no features of patches of one size of picture.
    """
    tower = tower_of(model)
    layer = getattr(model.config, "vision_feature_layer", None)
    found = []
    first = next(tower.parameters())
    for start in range(0, len(images), BATCH):
        pixels = torch.cat([builder.pixels(image)["pixel_values"] for image in images[start : start + BATCH]])
        if pixels.ndim != 4:
            raise FamilyError(
                f"{type(tower).__name__} is given pictures of shape {tuple(pixels.shape)}",
                why="one square picture each is compared here, no tiles and no loose patches",
                fix="use a base whose pictures are of one size (LLaVA, PaliGemma)",
            )
        made = tower(pixels.to(first.device, first.dtype), output_hidden_states=True)
        state = made.hidden_states[layer] if isinstance(layer, int) else made.last_hidden_state
        found.append(state.float().cpu())
    state_NPD = torch.cat(found)
    patches = (pixels.shape[-2] // tower.config.patch_size) * (pixels.shape[-1] // tower.config.patch_size)
    more = state_NPD.shape[1] - patches
    return state_NPD[:, more:], state_NPD[:, 0] if more else None
