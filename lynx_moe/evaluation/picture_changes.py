"""Changes of a picture in five strengths, and where its boxes and masks are afterwards.

Light, noise and JPEG have the strengths of ImageNet-C (Hendrycks and Dietterich 2019, their published code); blur has
its radii too, in proportion to the picture's shorter side, since theirs are for 224 pixels. Light here darkens as often
as it brightens. Viewpoint and crop are our choice.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from lynx_moe.errors import ConfigError
from lynx_moe.grounding import Mask
from lynx_moe.registry import Registry

LEVELS = (1, 2, 3, 4, 5)
LIGHT = (0.1, 0.2, 0.3, 0.4, 0.5)  # added to, or taken from, the value of every pixel
NOISE = (0.08, 0.12, 0.18, 0.26, 0.38)  # standard deviation, of a range of 0 to 1
BLUR = (1, 2, 3, 4, 6)  # radius on a picture whose shorter side has BLUR_SIDE pixels
BLUR_SIDE = 224
JPEG = (25, 18, 15, 10, 7)  # quality
VIEWPOINT = (0.03, 0.06, 0.09, 0.12, 0.15)  # of a side: how far each corner moves at most, in or out
CROP = (0.9, 0.8, 0.7, 0.6, 0.5)  # of each side that is kept

Corners = tuple[float, float, float, float]


@dataclass(frozen=True, eq=False)
class Moved:
    """Where things of a picture are after a change: `size` (width, height), and a homography of pixel places (3, 3)."""

    size: tuple[int, int]
    matrix_33: np.ndarray

    def point(self, place: Iterable[float]) -> tuple[float, float]:
        x, y = place
        u, v, w = self.matrix_33 @ (x, y, 1.0)
        return float(u / w), float(v / w)

    def box(self, box: Sequence[float]) -> tuple[Corners, float]:
        """The smallest box around the moved corners, cut at the picture's edge; and the share of it that is inside."""
        x1, y1, x2, y2 = box
        corners_42 = np.array([self.point(p) for p in ((x1, y1), (x2, y1), (x2, y2), (x1, y2))])
        (left, top), (right, bottom) = corners_42.min(0), corners_42.max(0)
        width, height = self.size
        cut = (
            float(np.clip(left, 0, width)), float(np.clip(top, 0, height)),
            float(np.clip(right, 0, width)), float(np.clip(bottom, 0, height)),
        )  # fmt: skip
        whole = (right - left) * (bottom - top)
        return cut, float((cut[2] - cut[0]) * (cut[3] - cut[1]) / whole) if whole > 0 else 0.0

    def mask(self, mask: Mask) -> Mask:
        """What the moved picture shows of it: each pixel is what lay where its middle comes from."""
        (width, height), (old_width, old_height) = self.size, mask.size
        x_W, y_H1 = np.arange(width) + 0.5, (np.arange(height) + 0.5)[:, None]
        u, v, w = (a * x_W + b * y_H1 + c for a, b, c in np.linalg.inv(self.matrix_33))
        column, row = (np.floor(place / w).astype(int) for place in (u, v))
        inside = (column >= 0) & (column < old_width) & (row >= 0) & (row < old_height)
        kept = mask.array()[row.clip(0, old_height - 1), column.clip(0, old_width - 1)]
        return Mask.of_array(inside & kept)


@dataclass(frozen=True)
class Change:
    """One kind of change: what it makes of a picture, and, if things move by it, where to.

    `paint(picture, level, rng)` gives the picture; `move(size, level, rng)` gives `Moved`, or is None. Both draw the
    same random numbers for the same picture.
    """

    paint: Callable[[Image.Image, int, np.random.Generator], Image.Image]
    move: Callable[[tuple[int, int], int, np.random.Generator], Moved] | None = None


CHANGES: Registry[Change] = Registry("change of the picture")


def chance(name: str, image_id: str) -> np.random.Generator:
    """Random numbers of one picture under one change: the same in any order, at any level, on any machine."""
    return np.random.default_rng(list(hashlib.sha256(f"{name}\n{image_id}".encode()).digest()))


def as_floats(picture: Image.Image) -> np.ndarray:
    """(height, width, 3) from 0 to 1."""
    return np.asarray(picture.convert("RGB"), dtype=np.float32) / 255


def as_picture(values_HW3: np.ndarray) -> Image.Image:
    return Image.fromarray((np.clip(values_HW3, 0, 1) * 255).round().astype(np.uint8))


def light(picture: Image.Image, level: int, rng: np.random.Generator) -> Image.Image:
    """Value (of HSV) up or down by a fixed amount."""
    hue, saturation, value = picture.convert("RGB").convert("HSV").split()
    step = round(255 * LIGHT[level - 1]) * (1 if rng.random() < 0.5 else -1)
    return Image.merge("HSV", (hue, saturation, value.point(lambda v: v + step))).convert("RGB")


def noise(picture: Image.Image, level: int, rng: np.random.Generator) -> Image.Image:
    values_HW3 = as_floats(picture)
    return as_picture(values_HW3 + rng.normal(scale=NOISE[level - 1], size=values_HW3.shape).astype(np.float32))


def blur(picture: Image.Image, level: int, rng: np.random.Generator) -> Image.Image:
    radius = BLUR[level - 1] * min(picture.size) / BLUR_SIDE
    return picture.convert("RGB").filter(ImageFilter.GaussianBlur(radius))


def jpeg(picture: Image.Image, level: int, rng: np.random.Generator) -> Image.Image:
    file = io.BytesIO()
    picture.convert("RGB").save(file, "JPEG", quality=JPEG[level - 1])
    return Image.open(file).convert("RGB")


def turned(size: tuple[int, int], level: int, rng: np.random.Generator) -> Moved:
    """A perspective that moves every corner by up to a share of the side, in or out."""
    width, height = size
    corners_42 = np.array([(0, 0), (width, 0), (width, height), (0, height)], dtype=float)
    # The same directions at every level, so that a higher one is more of the same.
    to_42 = corners_42 + VIEWPOINT[level - 1] * rng.uniform(-1, 1, (4, 2)) * (width, height)
    return Moved(size, homography(corners_42, to_42))


def turn(picture: Image.Image, level: int, rng: np.random.Generator) -> Image.Image:
    picture = picture.convert("RGB")
    # Pillow asks where each new pixel comes from; what comes from outside is black.
    back_33 = np.linalg.inv(turned(picture.size, level, rng).matrix_33)
    numbers = (back_33 / back_33[2, 2]).ravel()[:8].tolist()
    return picture.transform(picture.size, Image.Transform.PERSPECTIVE, numbers, Image.Resampling.BICUBIC)


def window(size: tuple[int, int], level: int, rng: np.random.Generator) -> Moved:
    """A part of the picture, of its own shape, anywhere in it."""
    width, height = (max(1, round(side * CROP[level - 1])) for side in size)
    left, top = (int(rng.random() * (side - kept + 1)) for side, kept in zip(size, (width, height), strict=True))
    return Moved((width, height), np.array([(1, 0, -left), (0, 1, -top), (0, 0, 1)], dtype=float))


def crop(picture: Image.Image, level: int, rng: np.random.Generator) -> Image.Image:
    part = window(picture.size, level, rng)
    left, top = (-int(part.matrix_33[axis, 2]) for axis in (0, 1))
    return picture.convert("RGB").crop((left, top, left + part.size[0], top + part.size[1]))


for _name, _change in {
    "light": Change(light),
    "blur": Change(blur),
    "noise": Change(noise),
    "jpeg": Change(jpeg),
    "viewpoint": Change(turn, turned),
    "crop": Change(crop, window),
}.items():
    CHANGES.register(_name)(_change)


def homography(from_42: np.ndarray, to_42: np.ndarray) -> np.ndarray:
    """(3, 3) that takes four places to four others (Hartley and Zisserman 2004, section 4.1), its last number 1."""
    lines = []
    for (x, y), (u, v) in zip(from_42, to_42, strict=True):
        lines += [(x, y, 1, 0, 0, 0, -u * x, -u * y), (0, 0, 0, x, y, 1, -v * x, -v * y)]
    return np.append(np.linalg.solve(np.array(lines), to_42.ravel()), 1.0).reshape(3, 3)


def checked_level(level: int) -> int:
    if level not in LEVELS:
        raise ConfigError(f"level {level} is unknown", why="changes come in levels 1 to 5", fix="--levels 1,3,5")
    return level
