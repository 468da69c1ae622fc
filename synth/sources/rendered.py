"""Endless rendered pictures with exact boxes and masks: the source that needs no data."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from synth.compose import jpeg, place
from synth.errors import SettingsError
from synth.lettering import WORDS, draw_word, inked, name_of, needs_plate
from synth.render import COLOURS, SHAPES, SHOWN, add_noise, draw_background, draw_shape, draw_thing, things
from synth.scene import Box, Obj, Scene
from synth.sources.ranges import is_range

_SIDE = 128  # pixels: what all sizes below are said for
_THINGS = 5  # as many fit well; where more are asked for, all are drawn smaller
LICENCE = "rendered from MIT, Apache-2.0 and CC0 pictures (synth/assets/NOTICE.md)"
_FONT, _SMALLEST_FONT = (17, 27), 15  # pixels: sizes, and the least whatever else shrinks
_ABSENT_WORDS = 4  # that are asked for and not there
_SMALL, _LARGE = 40, 49  # side in pixels: at most this is "small", at least this is "large", between is not asked


@dataclass(kw_only=True, slots=True)
class RenderedOptions:
    """What rendered pictures are like; the defaults draw what they always drew."""

    objects: Any = field(
        default_factory=lambda: [2, 5],
        metadata={
            "help": "fewest and most things tried in a picture; fewer where no place is left; beyond 5 all shrink"
        },
    )
    alike: float = field(default=0.3, metadata={"help": "chance that a thing is like one already there, 0 to 1"})
    overlap: float = field(default=0.2, metadata={"help": "share of the smaller box that another may cover, 0 to 0.8"})
    text: float = field(
        default=0.0, metadata={"help": "share of the things that are words painted on the picture, 0 to 1"}
    )
    side: int = field(default=_SIDE, metadata={"help": "pixels of the square picture's side, 64 to 2048; all scales"})

    def check(self) -> None:
        """Raise ``SettingsError`` for a value that nothing can be drawn with."""
        limits = {
            "alike": (0, 1, "a chance"),
            "text": (0, 1, "a share"),
            "overlap": (0, 0.8, "more would leave crumbs that nobody could name"),
        }
        for name, (low, high, why) in limits.items():
            value = getattr(self, name)
            if type(value) not in (int, float) or not low <= value <= high:
                raise SettingsError(
                    f"rendered.{name}={value!r} is not a number from {low} to {high}", why=why,
                    fix=f"for example rendered.{name}=0.2",
                )  # fmt: skip
        if not is_range(self.objects, 1, 40):
            raise SettingsError(
                f"rendered.objects={self.objects!r} is not a range of whole numbers from 1 to 40",
                why="fewest and most things in a picture", fix="for example rendered.objects=[4,9]",
            )  # fmt: skip
        if type(self.side) is not int or not 64 <= self.side <= 2048:
            raise SettingsError(
                f"rendered.side={self.side!r} is not a whole number from 64 to 2048", why="it is in pixels",
                fix="for example rendered.side=256",
            )  # fmt: skip


class RenderedSource:
    """Pictures of a few things and shapes on a square; picture ``index`` never needs the ones before it."""

    name = "rendered"

    _options = RenderedOptions()

    def __init__(self, options: RenderedOptions | None = None) -> None:
        if options is not None:
            self._options = options

    def __len__(self) -> int:
        return 2**31 - 1

    def scene(self, index: int, split: str, seed: int | str) -> Scene:
        """Return picture ``index`` of ``split``: the same for ever under the same seed."""
        return render_scene(random.Random(f"{seed}/{split}/rendered/{index}"), index, self._options)


def _what(rng: random.Random, before: list[tuple[str, str | None]], alike: float) -> tuple[str, str | None]:
    """Name and colour of the next object; now and then like one already there, so that phrases must be precise."""
    if before and rng.random() < alike:
        name, colour = rng.choice(before)
        return name, rng.choice(list(COLOURS)) if colour else None
    if rng.random() < 0.5:
        return rng.choice(SHAPES), rng.choice(list(COLOURS))
    return rng.choice(sorted(things())), None


def _box_of(mask: np.ndarray) -> Box:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def _words_asked(rng: random.Random, objects: list[Obj]) -> list[str]:
    """The painted words, and a few that are not there: all of them would crowd out what else is not there."""
    there = sorted({obj.name for obj in objects if obj.kind == "text"})
    return there + rng.sample([name for name in map(name_of, WORDS) if name not in there], _ABSENT_WORDS)


def _paint(
    rng: random.Random, canvas: Image.Image, wanted: int, taken: list[tuple[int, int, int, int]], scale: float,
    alike: float,
) -> Iterator[tuple[str, str, np.ndarray]]:  # fmt: skip
    """Paint up to ``wanted`` words where nothing else is; yields text, colour and (height, width) mask of each."""
    said: list[tuple[str, str]] = []
    for _ in range(wanted):
        again = rng.random() < alike
        free = [(text, colour) for text in WORDS for colour in COLOURS if (text, colour) not in said]
        known = {text for text, _ in said}
        text, colour = rng.choice([pair for pair in free if (pair[0] in known) is again] or free)
        pixels = max(_SMALLEST_FONT, round(rng.uniform(*_FONT) * scale))
        ink, plate, grey = draw_word(rng, text, colour, pixels, canvas.width)
        spot = place(rng, canvas.width, ink.size, taken, 0)
        with_plate = rng.random() < 0.5
        if spot is None:
            continue
        box = (*spot, spot[0] + ink.width, spot[1] + ink.height)
        if with_plate or needs_plate(canvas.crop(box), grey):
            canvas.alpha_composite(plate, spot)
        canvas.alpha_composite(ink, spot)
        mask = np.zeros((canvas.height, canvas.width), bool)
        mask[box[1] : box[3], box[0] : box[2]] = inked(ink)
        said.append((text, colour))
        taken.append(box)
        yield text, colour, mask


def render_scene(rng: random.Random, index: int, options: RenderedOptions) -> Scene:
    """Draw one picture from ``rng``; boxes are those of what stays visible."""
    fewest, most = options.objects
    frame = options.side / _SIDE
    scale = frame * min(1.0, (_THINGS / most) ** 0.5)
    background, canvas = draw_background(rng, options.side)
    canvas = canvas.convert("RGBA")
    owner = np.full((options.side, options.side), -1, np.int16)
    drawn: list[tuple[str, str | None, int]] = []
    taken: list[tuple[int, int, int, int]] = []
    words = 0  # painted last: what is covered in part is no word any more
    # The ends of the range half as often as what lies between.
    for _ in range(rng.choice(sorted([*range(fewest, most + 1), *range(fewest + 1, most)]))):
        if options.text and rng.random() < options.text:
            words += 1
            continue
        name, colour = _what(rng, [(n, c) for n, c, _ in drawn], options.alike)
        if name in SHOWN.get(background, ()):  # "the star" under a starry sky: who would say how many there are?
            continue
        side = rng.uniform(33, 62) * scale
        stretch = math.exp(rng.uniform(-0.5, 0.5))
        width, height = (
            max(round(28 * scale), min(round(70 * scale), round(side * f))) for f in (stretch**0.5, stretch**-0.5)
        )
        spot = place(rng, options.side, (width, height), taken, options.overlap)
        if spot is None:
            continue
        angle = rng.uniform(-25, 25)
        if colour:
            sprite = draw_shape(rng, name, colour, width, height, angle, line=max(1, round(2 * frame)))
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
        if not mask.any():
            continue
        box = _box_of(mask)
        attributes = {"colour": colour} if colour else {}
        side = ((box[2] - box[0]) * (box[3] - box[1])) ** 0.5 / scale
        if side <= _SMALL or side >= _LARGE:
            attributes["size"] = "small" if side <= _SMALL else "large"
        objects.append(
            Obj(id=k, name=name, box=box, kind="shape" if colour else "thing", attributes=attributes,
                visible=float(mask.sum()) / inked, mask=mask)
        )  # fmt: skip
    for text, colour, mask in _paint(rng, canvas, words, taken, scale, options.alike):
        objects.append(
            Obj(id=len(drawn) + len(objects), name=name_of(text), box=_box_of(mask), kind="text",
                attributes={"colour": colour, "text": text}, mask=mask)
        )  # fmt: skip
    picture = add_noise(rng, canvas.convert("RGB"))
    return Scene(
        index=index, width=options.side, height=options.side, objects=objects,
        image_bytes=lambda: jpeg(picture, 92, subsampling=0),
        source="rendered", licence=LICENCE, background=background,
        vocabulary=(
            *(name for name in (*sorted(things()), *SHAPES) if name not in SHOWN.get(background, ())),
            *(_words_asked(rng, objects) if options.text else ()),
        ),
    )  # fmt: skip
