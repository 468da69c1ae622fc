"""Putting cut-outs on a ground so that what stays visible of each is known to the pixel."""

from __future__ import annotations

import io
import random
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from synth.scene import Obj

NOBODY = -1
_INKED = 127  # alpha above which a pixel belongs to the cut-out
Coefficients = tuple[float, float, float, float, float, float, float, float]


@dataclass(slots=True)
class Canvas:
    """A picture in the making; ``owner`` is the (height, width) array of who is seen at each pixel."""

    picture: Image.Image
    owner: np.ndarray = field(init=False)
    inked: list[int] = field(default_factory=list)  # pixels of each cut-out before anything covered it

    def __post_init__(self) -> None:
        self.picture = self.picture.convert("RGBA")
        self.owner = np.full((self.picture.height, self.picture.width), NOBODY, np.int16)

    def lay(self, cutout: Image.Image, left: int, top: int) -> int:
        """Lay an RGBA cut-out on top, wholly inside of the canvas, and return its number."""
        self.picture.alpha_composite(cutout, (left, top))
        inked = np.asarray(cutout.getchannel("A")) > _INKED
        self.owner[top : top + cutout.height, left : left + cutout.width][inked] = len(self.inked)
        self.inked.append(int(inked.sum()))
        return len(self.inked) - 1

    def warp(self, coefficients: Coefficients) -> None:
        """Look at the canvas from elsewhere: the perspective map of Pillow's ``Image.transform``, output to input.

        What comes from beyond the edge is black and nobody's; so choose a map that stays inside.
        """
        size, kind = self.picture.size, Image.Transform.PERSPECTIVE
        self.picture = self.picture.transform(size, kind, coefficients, Image.Resampling.BICUBIC)
        owners = Image.fromarray(self.owner.astype(np.int32) + 1)
        moved = owners.transform(size, kind, coefficients, Image.Resampling.NEAREST)
        self.owner = (np.asarray(moved) - 1).astype(np.int16)
        # What is cut out of the view is lost, what stays is enlarged: a cut-out seen whole is still seen whole.
        zoom = size[0] * size[1] / _area_seen(coefficients, *size)
        self.inked = [round(pixels * zoom) for pixels in self.inked]

    def visible(self, number: int) -> float:
        """Share of the cut-out that is still seen; perspective may make it some hundredths more or less."""
        return float((self.owner == number).sum()) / max(1, self.inked[number])

    def objects(self, names: list[str]) -> list[Obj]:
        """The cut-outs that are seen, with boxes and masks of what is seen of them."""
        return visible_objects(self.owner, names, [self.visible(number) for number in range(len(names))])


def visible_objects(owner: np.ndarray, names: list[str], visible: list[float]) -> list[Obj]:
    """Return an object with box and mask for every number that is seen in ``owner``, a (height, width) array.

    Args:
        names, visible: name and seen share by number.
    """
    found = []
    for number, name in enumerate(names):
        mask = owner == number
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if len(rows):
            box = (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))
            found.append(Obj(id=number, name=name, box=box, visible=visible[number], mask=mask))
    return found


def _area_seen(coefficients: Coefficients, width: int, height: int) -> float:
    """Area of the quadrangle that the corners of the output are taken from."""
    a, b, c, d, e, f, g, h = coefficients
    corners = ((0, 0), (width, 0), (width, height), (0, height))
    seen = [((a * x + b * y + c) / (g * x + h * y + 1), (d * x + e * y + f) / (g * x + h * y + 1)) for x, y in corners]
    return abs(sum(x * v - u * y for (x, y), (u, v) in zip(seen, seen[1:] + seen[:1], strict=True))) / 2


def place(
    rng: random.Random, side: int, size: tuple[int, int], taken: list[tuple[int, int, int, int]], overlap: float
) -> tuple[int, int] | None:
    """Return a corner where a box of ``size`` overlaps nothing much, or None when there is no room left.

    ``taken`` are the boxes so far, ``overlap`` the share of the smaller of two boxes that may be common.
    """
    width, height = size
    for _ in range(25):
        x, y = rng.randrange(side - width + 1), rng.randrange(side - height + 1)
        for x1, y1, x2, y2 in taken:
            common = max(0, min(x + width, x2) - max(x, x1)) * max(0, min(y + height, y2) - max(y, y1))
            if common > overlap * min(width * height, (x2 - x1) * (y2 - y1)):
                break
        else:
            return x, y
    return None


def jpeg(picture: Image.Image, quality: int, **options: int) -> tuple[bytes, str]:
    """Return the encoded picture and its extension, as ``Scene.image_bytes`` wants them."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality, **options)
    return buffer.getvalue(), "jpg"


def cut(picture: Image.Image, mask: np.ndarray, feather: float) -> Image.Image:
    """Return what the boolean mask covers as an RGBA cut-out of its own size, its edge softened."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    alpha = Image.fromarray(mask.astype(np.uint8) * 255).crop(box)
    soft = alpha.filter(ImageFilter.GaussianBlur(feather))
    cutout = picture.convert("RGB").crop(box)
    # Never more than the mask: what is beyond it is the ground of another picture.
    cutout.putalpha(Image.fromarray(np.minimum(np.asarray(soft), np.asarray(alpha))))
    return cutout


def turned(cutout: Image.Image, rng: random.Random, *, longest: int, degrees: float, mirror: bool) -> Image.Image:
    """Return the cut-out scaled to ``longest`` pixels, turned by up to so many degrees, perhaps mirrored."""
    if mirror and rng.random() < 0.5:
        cutout = cutout.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    cutout = cutout.rotate(rng.uniform(-degrees, degrees), Image.Resampling.BICUBIC, expand=True)
    cutout = cutout.crop(cutout.getchannel("A").point(lambda a: 255 * (a > _INKED)).getbbox())
    share = longest / max(cutout.size)
    size = tuple(max(1, round(side * share)) for side in cutout.size)
    return cutout.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)


def lit(picture: Image.Image, rng: random.Random, strength: float) -> Image.Image:
    """Return the picture under another light: brightness, contrast, colour and warmth changed by up to ``strength``."""
    alpha = picture.getchannel("A") if picture.mode == "RGBA" else None
    shown = picture.convert("RGB")
    for kind in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        shown = kind(shown).enhance(1 + rng.uniform(-strength, strength))
    warmth = rng.uniform(-strength, strength) / 3
    gains = np.asarray([1 + warmth, 1.0, 1 - warmth], np.float32)
    shown = Image.fromarray(np.clip(np.asarray(shown, np.float32) * gains, 0, 255).astype(np.uint8))
    if alpha is not None:
        shown.putalpha(alpha)
    return shown


def camera(rng: random.Random, width: int, height: int, strength: float) -> Coefficients:
    """Return the perspective of a camera moved a little: corners look up to ``strength`` of a side further in."""
    sides = ((0, 0), (1, 0), (1, 1), (0, 1))

    def inwards(at: int, length: int) -> float:
        shift = rng.uniform(0, strength)
        return length * (1 - shift if at else shift)

    seen = [(inwards(x, width), inwards(y, height)) for x, y in sides]
    shown = [(x * width, y * height) for x, y in sides]
    equations, values = [], []
    for (x, y), (u, v) in zip(shown, seen, strict=True):
        equations += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    return tuple(np.linalg.solve(np.asarray(equations, float), np.asarray(values, float)).tolist())
