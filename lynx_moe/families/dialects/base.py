"""A dialect turns boxes and points into text, and text back into boxes, in a frame that it knows and never guesses."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from lynx_moe.errors import DialectError
from lynx_moe.families.dialects.geometry import Geometry, Size
from lynx_moe.families.dialects.grammar import Grammar, derive
from lynx_moe.grounding import Box
from lynx_moe.registry import Registry

PLACEHOLDER = re.compile(r"\{(box|point):([0-9]{1,6})\}")
ERROR_KINDS = ("unparseable", "out_of_range", "inverted")


@dataclass(slots=True)
class Parsed:
    """What a text said about places.

    `boxes` are original pixels, in reading order, labelled where the spelling names what is in them; `spans` are their
    places in the text. `points` (x, y) and `polygons` (lists of points), in original pixels, are what else the
    dialect's own spelling says. `errors` counts by kind what looked like a place and was none: "unparseable",
    "out_of_range" (a number the frame does not have, or a box wholly in the padding), "inverted" (corners not in
    order). `mask_codes` has, of a spelling that puts the codes of a mask behind a box (PaliGemma), one tuple per box,
    empty where there were none; of others it is empty.
    """

    boxes: list[Box] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    spans: list[tuple[int, int]] = field(default_factory=list)
    points: list[tuple[float, float]] = field(default_factory=list)
    polygons: list[list[tuple[float, float]]] = field(default_factory=list)
    mask_codes: list[tuple[int, ...]] = field(default_factory=list)


class Dialect(ABC):
    """Base of all dialects; `geometry` says which window of the picture the model sees.

    Attributes:
        name: the registered name.
        families: model types that were pretrained to write boxes so.
        marks: the special tokens that its spelling needs; a model's answer is read with these left in. A string is one
            token, a compiled pattern stands for all tokens that it matches in full (`<loc0000>` to `<loc1023>`).
        quantum: how far a written corner may lie from the true one, as a fraction of the frame's side: the smallest
            difference the spelling can carry, unless the class says otherwise.
        of_picture: the frame is the picture itself, whatever the processor does; else it is what the model sees.
        writes_boxes: False where the family was taught points only; `encode` and `grammar` then raise.
        coordinates: finds, in the text of a box, the part that holds its numbers and no others.
    """

    name: str = ""
    families: tuple[str, ...] = ()
    marks: tuple[str | re.Pattern[str], ...] = ()
    quantum: float
    of_picture: bool = False
    writes_boxes: bool = True
    coordinates: re.Pattern[str] = re.compile(r"[\[(]\s*[0-9.]+(?:[\s,()\[\]]+[0-9.]+){3}")

    def __init__(self, geometry: Geometry | None = None):
        self.geometry = geometry or Geometry()

    @classmethod
    def from_processor(cls, processor: object) -> Dialect:
        """The dialect in the frame that `processor` makes.

        Raises:
            FamilyError: the processor's padding cannot be placed.
        """
        return cls(Geometry.from_processor(processor))

    def frame(self, size: Size) -> tuple[float, float, float, float]:
        """Where the numbers 0 and 1 (or 0 and 1000 ..) lie: `(left, top, width, height)` in original pixels."""
        return (0.0, 0.0, float(size[0]), float(size[1])) if self.of_picture else self.geometry.window(size)

    def resolution(self, size: Size) -> tuple[float, float]:
        """How far a written corner may lie from the true one, in original pixels, along x and along y."""
        _, _, width, height = self.frame(size)
        return self.quantum * width, self.quantum * height

    @abstractmethod
    def encode(self, box: Iterable[float], size: Size) -> str:
        """The text of `box` (xyxy, original pixels) on a picture of `size` (width, height).

        What the model cannot see of the box is cut off first. A spelling with a place for a name writes the label of a
        `Box` that has one.

        Raises:
            DialectError: nothing of the box is visible, or it is not a box.
        """

    @abstractmethod
    def decode(self, text: str, size: Size) -> Parsed:
        """Every box that `text` spells, in original pixels, and what could not be read.

        Linear in the length of the text; never raises.
        """

    @abstractmethod
    def encode_point(self, point: Iterable[float], size: Size) -> str:
        """The text of `point` (x, y, original pixels) on a picture of `size` (width, height), in the frame of boxes.

        Raises:
            DialectError: the model cannot see that place, or it is not a point.
        """

    def encode_polygon(self, polygon: Sequence[Iterable[float]], size: Size) -> str:
        """The text of an outline, its corners in original pixels.

        Raises:
            DialectError: the model cannot see all of its corners, there are fewer than three, or this dialect has no
                spelling for outlines.
        """
        raise DialectError(
            f"the dialect {self.name!r} writes no polygons",
            why="models that speak it were never taught outlines in text",
            fix="use a dialect that writes them, or masks by another way",
        )

    def grammar(self, size: Size) -> Grammar:
        """The boxes that `encode` can write on a picture of `size` (width, height), for constrained decoding.

        It is derived from what `encode` writes for the whole picture, with and without a label.

        Raises:
            DialectError: this dialect writes no boxes, or not as four numbers between fixed marks.
        """
        return derive(self, size)

    def render(
        self,
        text: str,
        boxes: Sequence[Iterable[float]],
        size: Size,
        points: Sequence[Iterable[float]] = (),
    ) -> str:
        """`text` with each `{box:k}` replaced by the spelling of `boxes[k]`, each `{point:k}` by that of `points[k]`.

        Raises:
            DialectError: a placeholder has no box or point, or what it has cannot be written.
        """

        def spell(match: re.Match[str]) -> str:
            places, encode = (boxes, self.encode) if match[1] == "box" else (points, self.encode_point)
            index = int(match[2])
            if index >= len(places):
                raise DialectError(
                    f"{match[0]} in {text!r} has no {match[1]}",
                    why=f"only {len(places)} came with the text",
                    fix=f"number placeholders from 0 in the order of what they stand for; each is a {match[1]}",
                )
            return encode(places[index], size)

        return PLACEHOLDER.sub(spell, text)

    def seen(self, box: Iterable[float], size: Size) -> Box:
        """The visible part of `box`.

        Raises:
            DialectError: there is none, or the numbers are not a box.
        """
        corners = [float(value) for value in box]
        if len(corners) != 4 or not all(map(math.isfinite, corners)):
            raise DialectError(
                f"{corners} is not a box",
                why="a box is four finite numbers: x1, y1, x2, y2",
                fix="mend the record",
            )
        visible = self.geometry.visible(Box(*corners), size)
        if visible is None:
            raise DialectError(
                f"nothing of the box {corners} is visible",
                why=f"the model sees only {tuple(round(v, 1) for v in self.geometry.window(size))} (left, top, width, "
                f"height) of this {size[0]}x{size[1]} picture, or the box has no area",
                fix="leave the record out, or use a processor that pads instead of cropping",
            )
        return visible

    def seen_point(self, point: Iterable[float], size: Size) -> tuple[float, float]:
        """`point` as two numbers, where the model sees it.

        Raises:
            DialectError: it does not see it, or the numbers are not a point.
        """
        place = [float(value) for value in point]
        if len(place) != 2 or not all(map(math.isfinite, place)):
            raise DialectError(
                f"{place} is not a point",
                why="a point is two finite numbers: x, y",
                fix="mend the record",
            )
        if not self.geometry.shows(place, size):
            raise DialectError(
                f"the point {place} is not visible",
                why=f"the model sees only {tuple(round(v, 1) for v in self.geometry.window(size))} (left, top, width, "
                f"height) of this {size[0]}x{size[1]} picture",
                fix="leave the record out, or use a processor that pads instead of cropping",
            )
        return place[0], place[1]


DIALECTS: Registry[type[Dialect]] = Registry("box dialect")


def get_dialect(name: str, processor: object) -> Dialect:
    """The registered dialect `name` in the frame that `processor` makes.

    Raises:
        ConfigError: no such dialect.
        FamilyError: the processor's padding cannot be placed.
    """
    return DIALECTS.get(name).from_processor(processor)


def dialect_of(family: str) -> str:
    """Name of the dialect that a model type was pretrained with, as far as it is registered here; else "percent".

    >>> dialect_of("llava"), dialect_of("mllama")
    ('llava', 'percent')
    """
    return next((name for name in DIALECTS.names() if family in DIALECTS.get(name).families), "percent")
