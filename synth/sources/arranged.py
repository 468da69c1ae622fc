"""Two things left of, right of, above and below each other: four pictures of every pair, as What'sUp photographs them.

What'sUp: Kamath, Hessel and Chang 2023 (arXiv 2310.19785). Whatever knows which things are there, and not how they lie,
is right by chance only.
"""

from __future__ import annotations

import random

from PIL import Image

from synth.compose import Canvas, jpeg
from synth.render import COLOURS, SHAPES, SHOWN, add_noise, draw_background, draw_shape, draw_thing, things
from synth.scene import Scene
from synth.sources.rendered import LICENCE

SIDES = ("left of", "right of", "above", "below")  # of the pair's first thing, in the order of its pictures
_SIDE = 128  # pixels
_SIZE = (34, 46)  # pixels of a thing's sides
_APART = (26, 34)  # pixels of each middle from the picture's, along the line that they lie on
_ASIDE = 8  # pixels of each middle from that line, at most
_ALONG = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}

Thing = tuple[str, str | None]  # name, and colour of a shape


class ArrangedSource:
    """Picture ``index`` is number ``index % 4`` of pair ``index // 4``: the same two things, drawn anew."""

    name = "arranged"

    def __len__(self) -> int:
        return 2**31 - 1

    def scene(self, index: int, split: str, seed: int | str) -> Scene:
        """Return picture ``index`` of ``split``: the same for ever under the same seed."""
        pair, number = divmod(index, len(SIDES))
        first, second = _pair(random.Random(f"{seed}/{split}/arranged/{pair}"))
        rng = random.Random(f"{seed}/{split}/arranged/{pair}/{number}")
        background, ground = draw_background(rng, _SIDE)
        while first[0] in SHOWN.get(background, ()) or second[0] in SHOWN.get(background, ()):
            background, ground = draw_background(rng, _SIDE)
        canvas, (x, y) = Canvas(ground), _ALONG[SIDES[number]]
        for thing, sign in ((first, 1), (second, -1)):
            far, aside = sign * rng.uniform(*_APART), rng.uniform(-_ASIDE, _ASIDE)
            cutout = _drawn(rng, thing)
            middle = (_SIDE / 2 + far * x + aside * y, _SIDE / 2 + far * y + aside * x)
            left, top = (round(m - s / 2) for m, s in zip(middle, cutout.size, strict=True))
            canvas.lay(cutout, left, top)
        objects = canvas.objects([first[0], second[0]])
        for obj, (_, colour) in zip(objects, (first, second), strict=True):
            obj.kind = "shape" if colour else "thing"
            obj.attributes = {"colour": colour} if colour else {}
        picture = add_noise(rng, canvas.picture.convert("RGB"))
        return Scene(
            index=index, width=_SIDE, height=_SIDE, objects=objects, source="arranged", licence=LICENCE,
            image_bytes=lambda: jpeg(picture, 92, subsampling=0), background=background,
            vocabulary=tuple(name for name in (*sorted(things()), *SHAPES) if name not in SHOWN.get(background, ())),
        )  # fmt: skip


def _pair(rng: random.Random) -> tuple[Thing, Thing]:
    """Two things of different names."""
    names = sorted(things())
    found: list[Thing] = []
    while len(found) < 2:
        thing = (rng.choice(SHAPES), rng.choice(list(COLOURS))) if rng.random() < 0.5 else (rng.choice(names), None)
        if thing[0] not in [name for name, _ in found]:
            found.append(thing)
    return found[0], found[1]


def _drawn(rng: random.Random, thing: Thing) -> Image.Image:
    name, colour = thing
    width, height, angle = rng.randint(*_SIZE), rng.randint(*_SIZE), rng.uniform(-25, 25)
    if colour:
        return draw_shape(rng, name, colour, width, height, angle)
    return draw_thing(rng, name, width, height, angle)
