"""What an image processor does to a picture, as the window of the picture that the model then sees.

Every step that matters (pad, resize, crop from the centre) keeps axes straight, so all of them together are one
rectangle in original pixels: larger than the picture where it was padded, smaller where it was cropped. A dialect
measures in fractions of that window or of the picture itself; both stay right whatever the resolution is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from lynx_moe.errors import FamilyError
from lynx_moe.families.dialects.corner_padding import CornerPadding, Size, corner_padding
from lynx_moe.grounding import Box

# An image processor with one of these shows the model tiles or patches of the whole picture; their padding has no
# meaning in a box, because these families count in fractions (or pixels) of the picture itself.
TILING_MARKS = (
    "image_grid_pinpoints",  # LLaVA-NeXT, LLaVA-OneVision
    "do_image_splitting",  # Idefics, SmolVLM
    "crop_to_patches",  # InternVL
    "do_pan_and_scan",  # Gemma 3
    "merge_size",  # Qwen-VL
    "patch_size",  # Pixtral
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Geometry:
    """The straight-line path of a picture into a model.

    Args:
        pad_square: the picture is first centred in a square of its longer side.
        resize: `{"shortest_edge": s}`, `{"shortest_edge": s, "longest_edge": l}`, `{"height": h, "width": w}` or
            `{"max_height": h, "max_width": w}`; only matters before a crop. None leaves the size alone.
        crop: `(height, width)` cut from the centre of the resized picture, or None.
        corner: how the picture is put into the upper left corner of a larger canvas, or None; nothing else is done.

    >>> Geometry(pad_square=True).window((100, 60))
    (0.0, -20.0, 100.0, 100.0)
    """

    pad_square: bool = False
    resize: dict[str, int] | None = None
    crop: tuple[int, int] | None = None
    corner: CornerPadding | None = None

    @classmethod
    def from_processor(cls, processor: object) -> Geometry:
        """Read it off a processor (or an image processor): its settings, not its class name, decide.

        `LlavaImageProcessor` is why: with its defaults it crops the centre, with `do_pad=True` it pads to a square.

        Raises:
            FamilyError: the processor pads in a way that nothing here can place.
        """
        images = getattr(processor, "image_processor", processor)
        corner = corner_padding(images)
        if corner is not None:
            return cls(corner=corner)
        if any(getattr(images, mark, None) is not None for mark in TILING_MARKS):
            return cls()
        pads = bool(getattr(images, "do_pad", False))
        if pads and not hasattr(images, "pad_to_square"):
            raise FamilyError(
                f"cannot tell where {type(images).__name__} puts its padding",
                why="it has do_pad=True and neither pads to a square nor tiles, as far as its settings say",
                fix="pass a Geometry(...) of your own to the dialect",
            )
        crops = bool(getattr(images, "do_center_crop", False)) and getattr(images, "crop_size", None) is not None
        return cls(
            pad_square=pads,
            resize=_named(images.size) if getattr(images, "do_resize", False) and images.size is not None else None,
            crop=(images.crop_size["height"], images.crop_size["width"]) if crops else None,
        )

    @property
    def sees_all(self) -> bool:
        """True when no part of any picture can be lost."""
        return self.crop is None

    def window(self, size: Size) -> tuple[float, float, float, float]:
        """The seen window as `(left, top, width, height)` in original pixels of a picture of `size` (width, height).

        Rounding follows transformers' image backends, so it is exact wherever the crop lies inside the resized picture.
        """
        if self.corner is not None:
            return 0.0, 0.0, *self.corner(size)
        width, height = size
        left = top = 0.0
        if self.pad_square:
            side = max(width, height)
            left, top = 0.0 - (side - width) // 2, 0.0 - (side - height) // 2
            width = height = side
        if self.crop is None:
            return left, top, float(width), float(height)
        new_width, new_height = _resized((width, height), self.resize)
        crop_height, crop_width = self.crop
        # Negative when the crop is larger than the picture: then the backends pad instead, also evenly.
        crop_left, crop_top = math.floor((new_width - crop_width) / 2), math.floor((new_height - crop_height) / 2)
        per_x, per_y = width / new_width, height / new_height
        return left + crop_left * per_x, top + crop_top * per_y, crop_width * per_x, crop_height * per_y

    def visible(self, box: Box, size: Size) -> Box | None:
        """The part of `box` that lies in the picture and in the window, or None when there is none."""
        left, top, width, height = self.window(size)
        clipped = box.clip(size)
        seen = Box(
            max(clipped.x1, left),
            max(clipped.y1, top),
            min(clipped.x2, left + width),
            min(clipped.y2, top + height),
            box.label,
            box.confidence,
        )
        return seen if seen.x2 > seen.x1 and seen.y2 > seen.y1 else None

    def shows(self, point: Sequence[float], size: Size) -> bool:
        """Whether `point` (x, y) lies in the picture and in the window, their edges included."""
        left, top, width, height = self.window(size)
        x, y = point
        return max(0, left) <= x <= min(size[0], left + width) and max(0, top) <= y <= min(size[1], top + height)

    def view(self, image: Image.Image) -> Image.Image:
        """What the model will see of `image`, before any resizing; padding is black."""
        left, top, width, height = self.window(image.size)
        return image.crop((round(left), round(top), round(left + width), round(top + height)))


def _named(size: object) -> dict[str, int]:
    """A `SizeDict` or dict as a plain dict without empty entries."""
    names = ("shortest_edge", "longest_edge", "height", "width", "max_height", "max_width")
    read = size.get if isinstance(size, dict) else lambda name: getattr(size, name, None)
    return {name: int(read(name)) for name in names if read(name)}


def _resized(size: Size, rule: dict[str, int] | None) -> Size:
    """Width and height after transformers' `resize`, with its own rounding."""
    width, height = size
    if rule is None:
        return size
    if "height" in rule:
        return rule["width"], rule["height"]
    if "max_height" in rule:
        scale = min(rule["max_height"] / height, rule["max_width"] / width)
        return int(width * scale), int(height * scale)
    short, long = min(width, height), max(width, height)
    edge = rule["shortest_edge"]
    if "longest_edge" in rule and long / short * edge > rule["longest_edge"]:
        edge = round(rule["longest_edge"] * short / long)
        new_short, new_long = edge, int(rule["longest_edge"] * short / long * long / short)
    else:
        new_short, new_long = edge, int(edge * long / short)
    return (new_short, new_long) if width <= height else (new_long, new_short)
