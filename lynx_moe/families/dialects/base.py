"""A dialect turns boxes and points into text, and text back into boxes, in a frame that it knows and never guesses."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field, replace

from lynx_moe.errors import DialectError
from lynx_moe.families.dialects.geometry import Geometry, Size
from lynx_moe.families.dialects.grammar import Grammar, derive
from lynx_moe.families.dialects.outlined import refuse_no_mask
from lynx_moe.grounding import Box, Mask
from lynx_moe.registry import Registry

PLACEHOLDER = re.compile(r"\{(box|point|mask):([0-9]{1,6})\}")
ERROR_KINDS = ("unparseable", "out_of_range", "inverted")


@dataclass(slots=True)
class Parsed:
    """What a text said about places.

    `boxes` are original pixels, in reading order, labelled where the spelling names what is in them; `spans` are
    their places in the text. `points` (x, y) and `polygons` (lists of points), in original pixels, are what else
    the dialect's own spelling says; `polygon_masks` has, for each polygon, the number of the mask that it is a part
    of. `errors` counts by kind what looked like a place and was none: "unparseable", "out_of_range" (a number the
    frame does not have, or a box wholly in the padding), "inverted" (corners not in order). `mask_codes` has, of a
    spelling that puts the codes of a mask behind a box (PaliGemma), one tuple per box, empty where there were none;
    of others it is empty. `mask_words` are the places (begin, end) in the text, in reading order, of the word that
    stands for a mask, in a dialect that has one; it is neither a box nor an error.
    """

    boxes: list[Box] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    spans: list[tuple[int, int]] = field(default_factory=list)
    points: list[tuple[float, float]] = field(default_factory=list)
    polygons: list[list[tuple[float, float]]] = field(default_factory=list)
    polygon_masks: list[int] = field(default_factory=list)
    mask_codes: list[tuple[int, ...]] = field(default_factory=list)
    mask_words: list[tuple[int, int]] = field(default_factory=list)


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
        writes_outlines: whether it has a spelling for the outline of a mask.
        coordinates: finds, in the text of a box, the part that holds its numbers and no others.
        mask_word: what is written for a mask where a mask head reads the mask off the model's state there (Pixel-SAIL's
            `[SEG]`); None where there is no such head, and masks are outlines or nothing. Set by `with_mask_word`.
    """

    name: str = ""
    families: tuple[str, ...] = ()
    marks: tuple[str | re.Pattern[str], ...] = ()
    quantum: float
    of_picture: bool = False
    writes_boxes: bool = True
    writes_outlines: bool = False
    coordinates: re.Pattern[str] = re.compile(r"[\[(]\s*[0-9.]+(?:[\s,()\[\]]+[0-9.]+){3}")
    mask_word: str | None = None

    def __init__(self, geometry: Geometry | None = None):
        self.geometry = geometry or Geometry()

    @classmethod
    def from_processor(cls, processor: object) -> Dialect:
        """The dialect in the frame that `processor` makes.

        Raises:
            FamilyError: the processor's padding cannot be placed.
        """
        return cls(Geometry.from_processor(processor))

    def with_mask_word(self, word: str | None) -> Dialect:
        """The same dialect with `word` for a mask, or with none; all else is read and written as before.

        Raises:
            DialectError: the word is no single one, or reads as a place or a part of one.
        """
        changed = copy(self)
        changed.mask_word, changed.marks = word, type(self).marks
        if word is not None:
            if not word.strip() or len(word.split()) != 1 or any(c in "0123456789{}" for c in word):
                raise _no_mask_word(self, word, "it must be one word without digits or braces")
            read = self._read(f"{word} {word}", (100, 100))
            if read.boxes or read.points or read.polygons or any(mark_of(word, mark) for mark in changed.marks):
                raise _no_mask_word(self, word, "this dialect reads it as a place")
            if any(word in text for text in changed._spellings()):
                raise _no_mask_word(self, word, "it is a part of how this dialect writes places")
            changed.marks = (*changed.marks, word)
        return changed

    def _spellings(self) -> Iterator[str]:
        """What places are written with: marks, a box with a label that is no word's, and a point."""
        yield from (mark for mark in self.marks if isinstance(mark, str))
        yield self.encode_point((50, 50), (100, 100))
        if self.writes_boxes:
            yield self.encode(Box(0, 0, 100, 100, "0"), (100, 100))

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

    def decode(self, text: str, size: Size) -> Parsed:
        """Every box that `text` spells, in original pixels, every mask word, and what could not be read.

        Linear in the length of the text; never raises.
        """
        if self.mask_word is None:
            return self._read(text, size)
        words = [found.span() for found in re.finditer(re.escape(self.mask_word), text)]
        # A word as long as it, of spaces: all else stays where it is, and "[SEG]" opens no box.
        parsed = self._read(text.replace(self.mask_word, " " * len(self.mask_word)), size)
        parsed.mask_words = words
        return parsed

    @abstractmethod
    def _read(self, text: str, size: Size) -> Parsed:
        """`decode` of a text without mask words: what a dialect writes itself."""

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

    def encode_mask(self, mask: Mask, size: Size) -> str:
        """The text of a mask of a picture of `size` (width, height): the mask word where there is one, else outlines.

        Outlines are of what the model sees, and have few corners (`lynx_moe.grounding.outlines`). The word stands for
        any mask, also for an empty one; outlines do not.

        Raises:
            DialectError: this dialect has neither, or the mask has no visible pixel, is of a picture of another size,
                or cannot be decoded.
        """
        if self.mask_word is not None:
            refuse_no_mask(mask, size)
            return self.mask_word
        return self._outlined(mask, size)

    def _outlined(self, mask: Mask, size: Size) -> str:
        """The outlines of a mask (`families/dialects/outlined.py`), of a dialect that has a spelling for them."""
        raise DialectError(
            f"the dialect {self.name!r} cannot write a mask",
            why="it has no spelling for outlines, and [SEG] needs a mask head, which this model has none of",
            fix="switch the objective `masks` on, or leave tasks with masks in their answers out",
        )

    def grammar(self, size: Size) -> Grammar:
        """The boxes that `encode` can write on a picture of `size` (width, height), for constrained decoding.

        A mask word goes through, also where it begins as a box does.

        Raises:
            DialectError: this dialect writes no boxes, or not as four numbers between fixed marks.
        """
        return replace(self._grammar(size), word=self.mask_word or "")

    def _grammar(self, size: Size) -> Grammar:
        """`grammar` without mask words, derived from what `encode` writes for the whole picture, with and without a
        label.
        """
        return derive(self, size)

    def render(
        self,
        text: str,
        boxes: Sequence[Iterable[float]],
        size: Size,
        points: Sequence[Iterable[float]] = (),
        masks: Sequence[Mask | None] = (),
    ) -> str:
        """`text` with each `{box:k}` replaced by the spelling of `boxes[k]`, each `{point:k}` by that of `points[k]`,
        each `{mask:k}` by that of `masks[k]`.

        Raises:
            DialectError: a placeholder has no box, point or mask, or what it has cannot be written.
        """
        return "".join(piece for piece, _ in self.pieces(text, boxes, size, points, masks))

    def pieces(
        self,
        text: str,
        boxes: Sequence[Iterable[float]],
        size: Size,
        points: Sequence[Iterable[float]] = (),
        masks: Sequence[Mask | None] = (),
    ) -> Iterator[tuple[str, Mask | None]]:
        """What `render` joins: each piece of the text with the mask that it is the spelling of, None for all others."""
        end = 0
        for found in PLACEHOLDER.finditer(text):
            kind, index = found[1], int(found[2])
            places = {"box": boxes, "point": points, "mask": masks}[kind]
            if index >= len(places):
                raise DialectError(
                    f"{found[0]} in {text!r} has no {kind}",
                    why=f"only {len(places)} came with the text",
                    fix=f"number placeholders from 0 in the order of what they stand for; each is a {kind}",
                )
            if places[index] is None:
                raise DialectError(
                    f"nobody knows the mask of {found[0]} in {text!r}",
                    why="the thing was annotated with a box only",
                    fix="leave the record out, or make the data with masks=true from a source that has masks",
                )
            yield text[end : found.start()], None
            if kind == "mask":
                yield self.encode_mask(places[index], size), places[index]
            else:
                yield (self.encode if kind == "box" else self.encode_point)(places[index], size), None
            end = found.end()
        yield text[end:], None

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


def get_dialect(name: str, processor: object, mask_word: str | None = None) -> Dialect:
    """The registered dialect `name` in the frame that `processor` makes, with a word for masks or without one.

    Raises:
        ConfigError: no such dialect.
        FamilyError: the processor's padding cannot be placed.
        DialectError: the dialect cannot have that word.
    """
    return DIALECTS.get(name).from_processor(processor).with_mask_word(mask_word)


def dialect_of(family: str) -> str:
    """Name of the dialect that a model type was pretrained with, as far as it is registered here; else "percent".

    >>> dialect_of("llava"), dialect_of("mllama")
    ('llava', 'percent')
    """
    return next((name for name in DIALECTS.names() if family in DIALECTS.get(name).families), "percent")


def mark_of(text: str, mark: str | re.Pattern[str]) -> bool:
    """Whether `text` holds a mark."""
    return mark in text if isinstance(mark, str) else bool(mark.search(text))


def _no_mask_word(dialect: Dialect, word: str, why: str) -> DialectError:
    return DialectError(
        f"{word!r} cannot stand for a mask in the dialect {dialect.name!r}", why=why, fix="take [SEG], or another word"
    )
