"""Draw a scene: sprites of real things and coloured shapes over plain, noisy or photographic ground."""

from __future__ import annotations

import math
import random
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance

ASSETS = Path(__file__).parent / "assets"
SHAPES = ("circle", "square", "triangle", "star", "heart", "cross")
COLOURS = {
    "red": (220, 40, 40), "orange": (245, 140, 20), "yellow": (245, 220, 40), "green": (40, 165, 60),
    "blue": (40, 80, 220), "purple": (140, 50, 180), "white": (245, 245, 245), "black": (25, 25, 25),
}  # fmt: skip
# What a photographic ground shows of the things that are asked about: nobody may say that it is not there, or count it.
SHOWN = {"fur": ("cat",), "launch": ("rocket",), "stars": ("star",)}
_SUPERSAMPLE = 2
_INKED = [255 if v > 40 else 0 for v in range(256)]  # alpha above which a pixel counts as the thing


@lru_cache(maxsize=1)
def things() -> dict[str, list[Image.Image]]:
    """Every thing's sprites (one per drawing style), as RGBA."""
    found: dict[str, list[Image.Image]] = {}
    for path in sorted((ASSETS / "things").glob("*.webp")):
        found.setdefault(path.name.split(".")[0], []).append(Image.open(path).convert("RGBA"))
    return found


@lru_cache(maxsize=1)
def photos() -> dict[str, Image.Image]:
    """Photographic grounds by name, as RGB."""
    return {p.stem: Image.open(p).convert("RGB") for p in sorted((ASSETS / "backgrounds").glob("*.webp"))}


def draw_background(rng: random.Random, side: int) -> tuple[str, Image.Image]:
    """Return the ground's word ("plain", "noise" or a photo's name) and its picture."""
    roll = rng.random()
    if roll < 0.3:
        a, b = (tuple(rng.randrange(60, 220) for _ in range(3)) for _ in range(2))
        mix = 0.0 if rng.random() < 0.5 else 0.6
        ramp = np.linspace(0, mix, side)[:, None, None]
        if rng.random() < 0.5:
            ramp = ramp.transpose(1, 0, 2)
        pixels = np.asarray(a) * (1 - ramp) + np.asarray(b) * ramp
        return "plain", Image.fromarray(np.broadcast_to(pixels, (side, side, 3)).astype(np.uint8))
    if roll < 0.45:
        noise = np.random.default_rng(rng.getrandbits(64))
        cells = rng.choice((8, 16, 32))
        base = np.asarray([rng.randrange(70, 200) for _ in range(3)])
        pixels = np.clip(base + noise.normal(0, 28, (cells, cells, 3)), 0, 255).astype(np.uint8)
        return "noise", Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC)
    name = rng.choice(sorted(photos()))
    photo = photos()[name]
    crop = rng.randrange(photo.width // 2, photo.width + 1)
    left, top = rng.randrange(photo.width - crop + 1), rng.randrange(photo.height - crop + 1)
    picture = photo.resize((side, side), Image.Resampling.BILINEAR, box=(left, top, left + crop, top + crop))
    if rng.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    picture = ImageEnhance.Contrast(picture).enhance(rng.uniform(0.45, 0.9))
    return name, ImageEnhance.Brightness(picture).enhance(rng.uniform(0.7, 1.25))


def _star(points: int, inner: float) -> list[tuple[float, float]]:
    return [
        ((1 if k % 2 == 0 else inner) * math.sin(k * math.pi / points),
         -(1 if k % 2 == 0 else inner) * math.cos(k * math.pi / points))
        for k in range(2 * points)
    ]  # fmt: skip


def _quarter_turns(x: float, y: float, times: int) -> tuple[float, float]:
    for _ in range(times):
        x, y = -y, x
    return x, y


def _outline(shape: str) -> list[tuple[float, float]]:
    """The shape's corners in a -1..1 square."""
    if shape == "square":
        return [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)]
    if shape == "triangle":
        return [(0, -0.95), (0.95, 0.85), (-0.95, 0.85)]
    if shape == "star":
        return _star(5, 0.42)
    if shape == "cross":
        t = 0.32
        arm = [(t, -1), (t, -t), (1, -t)]  # one quarter of the outline, turned three more times
        return [_quarter_turns(x, y, k) for k in range(4) for x, y in arm]
    if shape == "heart":
        ts = [2 * math.pi * k / 40 for k in range(40)]
        return [
            (math.sin(t) ** 3, -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 16)
            for t in ts
        ]
    return [(math.cos(2 * math.pi * k / 48), math.sin(2 * math.pi * k / 48)) for k in range(48)]


def draw_shape(
    rng: random.Random, shape: str, colour: str, width: int, height: int, angle: float, line: int = 2
) -> Image.Image:
    """One filled shape, turned by ``angle`` degrees, colour jittered, perhaps outlined: RGBA of the size asked.

    ``line`` is the width of the outline in pixels.
    """
    fill = tuple(max(0, min(255, c + rng.randrange(-18, 19))) for c in COLOURS[colour])
    w, h = width * _SUPERSAMPLE, height * _SUPERSAMPLE
    turn = math.radians(angle)
    cos, sin = math.cos(turn), math.sin(turn)
    corners = [(x * cos - y * sin, x * sin + y * cos) for x, y in _outline(shape)]
    left, top = min(x for x, _ in corners), min(y for _, y in corners)
    across, down = max(x for x, _ in corners) - left, max(y for _, y in corners) - top
    points = [((x - left) / across * (w - 1), (y - top) / down * (h - 1)) for x, y in corners]
    edge = tuple(int(c * 0.55) for c in fill) if rng.random() < 0.5 else None
    canvas = Image.new("RGBA", (w, h), (*fill, 0))
    ImageDraw.Draw(canvas).polygon(points, fill=(*fill, 255), outline=edge, width=line * _SUPERSAMPLE if edge else 1)
    return canvas.reduce(_SUPERSAMPLE)


def draw_thing(rng: random.Random, name: str, width: int, height: int, angle: float) -> Image.Image:
    """One of the thing's sprites, turned, perhaps mirrored, a little brighter or darker: RGBA of the size asked."""
    sprite = rng.choice(things()[name])
    if rng.random() < 0.5:
        sprite = sprite.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    turned = sprite.rotate(angle, Image.Resampling.BILINEAR, expand=True)
    inked = turned.getchannel("A").point(_INKED).getbbox()
    turned = turned.resize((width, height), Image.Resampling.BILINEAR, box=inked, reducing_gap=2.0)
    alpha = turned.getchannel("A")
    light = ImageEnhance.Brightness(turned.convert("RGB")).enhance(rng.uniform(0.8, 1.15))
    light.putalpha(alpha)
    return light


def add_noise(rng: random.Random, picture: Image.Image) -> Image.Image:
    """Sensor-like noise of 0-9 grey levels."""
    sigma = rng.uniform(0, 9)
    noise = np.random.default_rng(rng.getrandbits(64))
    grain = noise.standard_normal((picture.height, picture.width, 1), np.float32) * sigma
    return Image.fromarray(np.clip(np.asarray(picture, np.float32) + grain, 0, 255).astype(np.uint8))
