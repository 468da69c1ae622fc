"""Words painted on a picture: which they are, how things of that kind are called, and how they are drawn.

The font is Aileron Regular (CC0), which comes with Pillow.
"""

from __future__ import annotations

import random
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from synth.render import COLOURS

# None is a part of another, a colour, or what something else in a rendered picture is called.
WORDS = (
    "OPEN", "EXIT", "SALE", "STOP", "TAXI", "HOTEL", "CAFE", "BANK", "POST", "MENU", "MILK", "BREAD", "FRESH", "HELLO",
    "MUSIC", "RADIO", "LUNCH", "MARKET", "SCHOOL", "GARDEN", "SUMMER", "WINTER", "MONDAY", "FRIDAY", "NOVEL", "TICKET",
    "PARK", "DANGER", "BEACH", "TOYS",
)  # fmt: skip
_FINER = 2  # letters are drawn so many times larger, then turned and made smaller
_INKED = 110  # alpha above which a pixel is the letter's
_LIGHT, _DARK = (236, 238, 232), (38, 40, 46)  # plates
_CLEAR = 85  # grey levels between ink and ground from which letters are read without a plate
_BUSY = 30  # grey levels of deviation up to which a ground is calm enough for that
_PARTS = 6


def name_of(text: str) -> str:
    """How a painted word is called, in English; `synth.scene.PAINTED` finds the text again.

    >>> name_of("OPEN")
    'word "OPEN"'
    """
    return f'word "{text}"'


@lru_cache(maxsize=128)
def _letters(text: str, pixels: int) -> Image.Image:
    """The word in grey, white where inked, cut to its ink; capitals are about 0.7 of ``pixels`` high."""
    font = ImageFont.load_default(pixels)
    left, top, right, bottom = font.getbbox(text)
    ink = Image.new("L", (round(right - left) + 2, round(bottom - top) + 2))
    ImageDraw.Draw(ink).text((1 - left, 1 - top), text, fill=255, font=font, stroke_width=pixels / 60)
    return ink.crop(ink.getbbox())


def draw_word(
    rng: random.Random, text: str, colour: str, pixels: int, most: int
) -> tuple[Image.Image, Image.Image, int]:
    """Draw a word, turned a little, with room for a plate around it.

    Args:
        pixels: size of the font. most: pixels that the width may have; the word is drawn smaller where it must be.

    Returns:
        the ink as RGBA, clear elsewhere; the plate as RGBA of the same size; the grey level of the ink.
    """
    fill = tuple(max(0, min(255, c + rng.randrange(-12, 13))) for c in COLOURS[colour])
    ink = _letters(text, pixels * _FINER)
    edge = round(0.3 * pixels * _FINER)
    size = ink.width + 4 * edge, ink.height + 2 * edge
    grey = round(0.299 * fill[0] + 0.587 * fill[1] + 0.114 * fill[2])
    letters, plate = Image.new("L", size), Image.new("L", size)
    letters.paste(ink, (2 * edge, edge))
    # With round ends: a plate with corners would be one more square, of which nobody was told.
    ImageDraw.Draw(plate).rounded_rectangle((0, 0, size[0] - 1, size[1] - 1), size[1] / 2, fill=255)
    angle = rng.uniform(-8, 8)
    # Turned by its alpha alone: turning colour as well would bring the clear ground's black into the letters' edges.
    shares = [layer.rotate(angle, Image.Resampling.BICUBIC, expand=True) for layer in (letters, plate)]
    factor = max(_FINER, shares[0].width / most)
    small = tuple(max(1, int(side / factor)) for side in shares[0].size)
    alphas = [share.resize(small, Image.Resampling.BOX) for share in shares]
    layers = [Image.new("RGBA", small, (*rgb, 255)) for rgb in (fill, _DARK if grey > 140 else _LIGHT)]
    for layer, alpha in zip(layers, alphas, strict=True):
        layer.putalpha(alpha)
    return layers[0], layers[1], grey


def inked(ink: Image.Image) -> np.ndarray:
    """The boolean (height, width) mask of what a word's ink covers."""
    return np.asarray(ink.getchannel("A")) > _INKED


def needs_plate(ground: Image.Image, grey: int) -> bool:
    """Whether letters of that grey level could not all be read on this ground as it is."""
    levels = np.asarray(ground.convert("L"), np.float32)
    parts = np.array_split(levels, min(_PARTS, levels.shape[1]), axis=1)  # about a letter each
    return any(abs(float(part.mean()) - grey) < _CLEAR or float(part.std()) > _BUSY for part in parts)
