"""Boxes and masks drawn on a copy of a picture."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

from lynx_moe.grounding.box import Box
from lynx_moe.grounding.masks import Mask

TRUE_COLOUR = "#1fe04b"
GUESS_COLOUR = "#ff5a1f"
ASKED_COLOUR = "#1f9bff"
TINT = 110  # of 255: how much of a mask's colour covers the picture


def font(pixels: float) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    """Pillow's own scalable font, so that no font file has to be found on the machine."""
    return ImageFont.load_default(size=pixels)


def draw(
    image: Image.Image,
    boxes: Sequence[Box],
    *,
    masks: Sequence[Mask] = (),
    colour: str = GUESS_COLOUR,
    width: int = 2,
    text_pixels: float = 12,
) -> Image.Image:
    """A copy of `image` with `masks`, translucent, and over them the outlines of `boxes`, each with its label and
    confidence where it has them.

    The picture passed in stays as it is. Labels sit inside the box's upper left corner on a plate of its own colour,
    and are pushed back into the picture where the corner lies outside of it.
    """
    canvas = image.convert("RGB")
    if canvas is image:
        canvas = image.copy()
    tint(canvas, masks, colour)
    pen = ImageDraw.Draw(canvas)
    for box in boxes:
        left, right = sorted((box.x1, box.x2))
        top, bottom = sorted((box.y1, box.y2))
        pen.rectangle((left, top, right, bottom), outline=colour, width=width)
        words = " ".join(
            part for part in (box.label, "" if box.confidence is None else f"{box.confidence:.2f}") if part
        )
        if words:
            plate(pen, (left, top), words, colour=colour, pixels=text_pixels, limit=canvas.size)
    return canvas


def tint(canvas: Image.Image, masks: Sequence[Mask], colour: str) -> None:
    """Lays `masks`, stretched to `canvas`, on it in place: translucent, with a line around each."""
    for mask in masks:
        area = Image.fromarray(mask.array()).convert("L").resize(canvas.size, Image.Resampling.NEAREST)
        line = ImageChops.subtract(area.filter(ImageFilter.MaxFilter(3)), area.filter(ImageFilter.MinFilter(3)))
        canvas.paste(colour, mask=area.point(lambda value: value * TINT // 255))
        canvas.paste(colour, mask=line)


def plate(
    pen: ImageDraw.ImageDraw,
    corner: tuple[float, float],
    words: str,
    *,
    colour: str,
    pixels: float,
    limit: tuple[int, int],
) -> None:
    """Dark `words` on a plate of `colour` at `corner`, kept inside `limit` (width, height)."""
    face = font(pixels)
    x1, y1, x2, y2 = pen.textbbox((0, 0), words, font=face)
    width, height = x2 - x1 + 4, y2 - y1 + 4
    left = min(max(0, corner[0]), max(0, limit[0] - width))
    top = min(max(0, corner[1]), max(0, limit[1] - height))
    pen.rectangle((left, top, left + width, top + height), fill=colour)
    pen.text((left + 2 - x1, top + 2 - y1), words, fill="black", font=face)
