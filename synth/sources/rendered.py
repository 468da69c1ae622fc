"""Endless rendered pictures with exact boxes and masks: the source that needs no data."""

from __future__ import annotations

import io
import math
import random

import numpy as np
from PIL import Image

from synth.render import COLOURS, SHAPES, add_noise, draw_background, draw_shape, draw_thing, things
from synth.scene import Obj, Scene

SIDE = 128
LICENCE = "rendered from MIT, Apache-2.0 and CC0 pictures (synth/assets/NOTICE.md)"
_SMALL, _LARGE = 40, 49  # side in pixels: at most this is "small", at least this is "large", between is not asked
_MAX_OVERLAP = 0.2  # of the smaller box: more would leave crumbs that nobody could name


class RenderedSource:
    """Pictures of 2-5 things and shapes, ``SIDE`` pixels square; picture ``index`` never needs the ones before it."""

    name = "rendered"

    def __len__(self) -> int:
        return 2**31 - 1

    def scene(self, index: int, split: str, seed: int | str) -> Scene:
        """Return picture ``index`` of ``split``: the same for ever under the same seed."""
        return render_scene(random.Random(f"{seed}/{split}/rendered/{index}"), index)


def _place(
    rng: random.Random, width: int, height: int, taken: list[tuple[int, int, int, int]]
) -> tuple[int, int] | None:
    """A corner where the sprite overlaps nothing much, or None when there is no room left."""
    for _ in range(25):
        x, y = rng.randrange(SIDE - width + 1), rng.randrange(SIDE - height + 1)
        for x1, y1, x2, y2 in taken:
            common = max(0, min(x + width, x2) - max(x, x1)) * max(0, min(y + height, y2) - max(y, y1))
            if common > _MAX_OVERLAP * min(width * height, (x2 - x1) * (y2 - y1)):
                break
        else:
            return x, y
    return None


def _what(rng: random.Random, before: list[tuple[str, str | None]]) -> tuple[str, str | None]:
    """Name and colour of the next object; now and then like one already there, so that phrases must be precise."""
    if before and rng.random() < 0.3:
        name, colour = rng.choice(before)
        return name, rng.choice(list(COLOURS)) if colour else None
    if rng.random() < 0.5:
        return rng.choice(SHAPES), rng.choice(list(COLOURS))
    return rng.choice(sorted(things())), None


def render_scene(rng: random.Random, index: int) -> Scene:
    """Draw one picture from ``rng``; boxes are those of what stays visible."""
    background, canvas = draw_background(rng, SIDE)
    canvas = canvas.convert("RGBA")
    owner = np.full((SIDE, SIDE), -1, np.int16)
    drawn: list[tuple[str, str | None, int]] = []
    taken: list[tuple[int, int, int, int]] = []
    for _ in range(rng.choice((2, 3, 3, 4, 4, 5))):
        name, colour = _what(rng, [(n, c) for n, c, _ in drawn])
        side = rng.uniform(33, 62)
        stretch = math.exp(rng.uniform(-0.5, 0.5))
        width, height = (max(28, min(70, round(side * f))) for f in (stretch**0.5, stretch**-0.5))
        spot = _place(rng, width, height, taken)
        if spot is None:
            continue
        angle = rng.uniform(-25, 25)
        if colour:
            sprite = draw_shape(rng, name, colour, width, height, angle)
        else:
            sprite = draw_thing(rng, name, width, height, angle)
        canvas.alpha_composite(sprite, spot)
        inked = np.asarray(sprite.getchannel("A")) > 100
        owner[spot[1] : spot[1] + height, spot[0] : spot[0] + width][inked] = len(drawn)
        drawn.append((name, colour, int(inked.sum())))
        taken.append((spot[0], spot[1], spot[0] + width, spot[1] + height))
    objects = []
    for k, (name, colour, inked) in enumerate(drawn):
        mask = owner == k
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if len(rows) == 0:
            continue
        box = (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))
        attributes = {"colour": colour} if colour else {}
        side = ((box[2] - box[0]) * (box[3] - box[1])) ** 0.5
        if side <= _SMALL or side >= _LARGE:
            attributes["size"] = "small" if side <= _SMALL else "large"
        objects.append(
            Obj(id=k, name=name, box=box, kind="shape" if colour else "thing", attributes=attributes,
                visible=float(mask.sum()) / inked, mask=mask)
        )  # fmt: skip
    picture = add_noise(rng, canvas.convert("RGB"))
    return Scene(
        index=index, width=SIDE, height=SIDE, objects=objects, image_bytes=lambda: _encode(picture),
        source="rendered", licence=LICENCE, background=background, vocabulary=(*sorted(things()), *SHAPES),
    )  # fmt: skip


def _encode(picture: Image.Image) -> tuple[bytes, str]:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=92, subsampling=0)
    return buffer.getvalue(), "jpg"
