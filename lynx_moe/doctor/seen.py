"""A picture as the model sees it, got back from the numbers that the image processor made of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from lynx_moe.data import SampleBuilder
from lynx_moe.families.dialects import Geometry
from lynx_moe.grounding import Box

# Where among a picture's tiles the one is that shows all of it, squeezed into a tile; by the setting that makes tiles.
OVERVIEW = {
    "image_grid_pinpoints": 0,  # LLaVA-NeXT, LLaVA-OneVision
    "do_pan_and_scan": 0,  # Gemma 3
    "do_image_splitting": -1,  # Idefics, SmolVLM
    "crop_to_patches": -1,  # InternVL
}


@dataclass(frozen=True)
class Seen:
    """A picture after the processor. `exact` is False where its pixels could not be got back and it is cut by the
    dialect's geometry instead, which would hide a mistake of that geometry; `how` says what was done.
    """

    image: Image.Image
    how: str
    exact: bool

    def place(self, box: Box, geometry: Geometry, size: tuple[int, int]) -> Box:
        """Where on `image` lies what an answer's text calls `box` (original pixels of a picture of `size`).

        A dialect counts in fractions of the window that it believes the model sees; they are put on what it does see,
        so that a wrong belief shows as a shifted box.
        """
        left, top, width, height = geometry.window(size)
        x, y = self.image.width / width, self.image.height / height
        return Box((box.x1 - left) * x, (box.y1 - top) * y, (box.x2 - left) * x, (box.y2 - top) * y, box.label)


def seen(builder: SampleBuilder, image: Image.Image) -> Seen:
    """What the model sees of `image`."""
    made = builder.pixels(image)
    images = builder.processor.image_processor
    pixels, how = whole_picture(made, images)
    if pixels is None:
        return Seen(builder.dialect.geometry.view(image), f"not the model's own pixels: {how}", False)
    return Seen(picture_of(pixels, images), how, True)


def whole_picture(made: dict[str, Tensor], images: object) -> tuple[Tensor | None, str]:
    """(3, H, W) normalised pixels that show the whole picture, and how they were found; None with the reason."""
    values = made.get("pixel_values")
    if values is None:
        return None, f"the processor gives {', '.join(made)}"
    if values.ndim == 2 and "image_grid_thw" in made:
        return joined(values, made["image_grid_thw"][0].tolist(), images), "patches put together again"
    tiles = values[0] if values.ndim == 5 else values
    if tiles.ndim != 4 or tiles.shape[1] != 3:
        return None, f"pixel_values of shape {tuple(values.shape)}"
    if len(tiles) == 1:
        pixels, how = tiles[0], "the whole picture"
    else:
        place = next((OVERVIEW[mark] for mark in OVERVIEW if getattr(images, mark, None)), None)
        if place is None:
            return None, f"{len(tiles)} tiles, none known to show all of it"
        pixels, how = tiles[place], f"the overview among {len(tiles)} tiles"
    if "pixel_attention_mask" in made:
        mask = made["pixel_attention_mask"].reshape(-1, *pixels.shape[-2:])[place if len(tiles) > 1 else 0].bool()
        pixels = pixels[:, : int(mask.any(dim=1).sum()), : int(mask.any(dim=0).sum())]
    elif "image_sizes" in made and values.ndim == 4:  # Pixtral fills a batch up to its largest picture
        height, width = made["image_sizes"].reshape(-1, 2)[0].tolist()
        pixels = pixels[:, :height, :width]
    return pixels, how


def joined(patches: Tensor, grid: list[int], images: object) -> Tensor:
    """(3, H, W) from the flattened patches (P, 3 * frames * side * side) of the Qwen-VL line.

    They come in the order (time, rows of groups, groups, rows in a group, patches in it), each channel by channel.
    """
    _, rows, columns = grid
    merge, side, frames = images.merge_size, images.patch_size, images.temporal_patch_size
    groups = patches.view(-1, rows // merge, columns // merge, merge, merge, 3, frames, side, side)[0, ..., 0, :, :]
    return groups.permute(4, 0, 2, 5, 1, 3, 6).reshape(3, rows * side, columns * side)


def picture_of(pixels: Tensor, images: object) -> Image.Image:
    """The picture whose normalised numbers are `pixels` (3, H, W)."""
    values = pixels.detach().float().cpu()
    if getattr(images, "do_normalize", False):
        values = values * torch.tensor(images.image_std).view(-1, 1, 1) + torch.tensor(images.image_mean).view(-1, 1, 1)
    if getattr(images, "do_rescale", False):
        values = values / images.rescale_factor
    return Image.fromarray(values.round().clamp(0, 255).byte().permute(1, 2, 0).numpy())
