"""One picture and what is truly in it: the in-memory form every source makes and every task reads."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from synth.rle import Runs

Box = tuple[float, float, float, float]
Point = tuple[float, float]
PAINTED = re.compile(r'word "([^"]+)"')  # the name of an object of kind "text", with what it says


def iou(one: Box, other: Box) -> float:
    """Intersection over union of two xyxy boxes; 0 where either has no area."""
    width, height = (min(one[k + 2], other[k + 2]) - max(one[k], other[k]) for k in (0, 1))
    if width <= 0 or height <= 0:
        return 0.0
    union = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)) - width * height
    return width * height / union if union > 0 else 0.0  # of sides near 1e-200 there is no product


class OutlineError(ValueError):
    """An object has an outline, and it cannot be drawn; its box may be true all the same."""


@dataclass(kw_only=True)
class Obj:
    """One thing in a picture; it is not changed once made, so what is derived of it is derived once.

    ``box`` is the visible extent, xyxy, in original pixels; ``mask`` the visible pixels as a boolean (height, width)
    array when the source knows them, or what gives it or its runs when called (see ``pixels`` and ``runs``);
    ``kind`` is "thing", "shape" or "text": a word painted on the picture, named as ``PAINTED`` has it, what it says in
    the attribute "text". ``attributes`` maps words like "colour" and "size" to words like "red";
    ``traits`` are words said of the object that the source does not sort ("wooden", "parked"); ``depth`` is the
    distance from the camera in the source's units, where it is known; ``confidence`` (0 to 1) is set where a model has
    found the object.
    """

    id: int
    name: str
    box: Box
    kind: str = "thing"
    attributes: dict[str, str] = field(default_factory=dict)
    visible: float = 1.0
    mask: np.ndarray | Callable[[], np.ndarray | Runs | None] | None = None
    traits: tuple[str, ...] = ()
    depth: float | None = None
    confidence: float | None = None
    between: str = " "  # what a language writes between colour and name

    @cached_property
    def phrase(self) -> str:
        """How a person names this object without looking at the others: colour, then name."""
        colour = self.attributes.get("colour")
        return f"{colour}{self.between}{self.name}" if colour else self.name

    def pixels(self) -> np.ndarray | None:
        """The mask, drawn now if the source has only its outline; None also where that cannot be drawn."""
        try:
            mask = self.mask() if callable(self.mask) else self.mask
        except OutlineError:
            return None
        return mask.pixels() if isinstance(mask, Runs) else mask

    def runs(self) -> Runs | None:
        """The mask as run lengths, None where nobody knows it; raises ``OutlineError`` for one that cannot be drawn."""
        mask = self.mask() if callable(self.mask) else self.mask
        return Runs.of(mask) if isinstance(mask, np.ndarray) else mask

    @cached_property
    def centre(self) -> tuple[float, float]:
        x1, y1, x2, y2 = self.box
        return (x1 + x2) / 2, (y1 + y2) / 2

    @cached_property
    def width(self) -> float:
        return self.box[2] - self.box[0]

    @cached_property
    def height(self) -> float:
        return self.box[3] - self.box[1]

    @cached_property
    def area(self) -> float:
        return self.width * self.height


@dataclass(frozen=True, kw_only=True, slots=True)
class Relation:
    """What one object does to another: ``subject`` and ``object`` are ids of objects ("rides", "next to")."""

    subject: int
    predicate: str
    object: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Region:
    """Words said of one place: a referring expression where ``unique`` (it means this place only), else a caption."""

    text: str
    box: Box
    unique: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Caption:
    """A sentence about the whole picture; ``spans`` are (start, end, ids of the objects meant) in characters of it."""

    text: str
    spans: tuple[tuple[int, int, tuple[int, ...]], ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """A stepwise question that came with the picture.

    ``steps`` are (text, ids of the objects meant); ``{box:k}`` in the text is the box of the k-th of them.
    """

    text: str
    steps: tuple[tuple[str, tuple[int, ...]], ...]
    answer: str


@dataclass(kw_only=True)
class Scene:
    """A picture with its objects; ``image_bytes`` yields the encoded file and its extension only when asked.

    It is not changed once made: every task asks of it who is called what, and that is looked up once. ``file`` is the
    picture's path relative to the source's ``root``, empty for a drawn one.
    """

    index: int
    width: int
    height: int
    objects: list[Obj]
    image_bytes: Callable[[], tuple[bytes, str]]
    source: str
    licence: str
    background: str = ""
    complete: bool = True  # every object there is is listed; annotated photographs rarely promise that
    exhaustive: bool = True  # of a name that is listed at all, every object is; else no name means one thing alone
    vocabulary: tuple[str, ...] = ()
    captions: list[Caption] = field(default_factory=list)
    relations: list[Relation] = field(default_factory=list)
    regions: list[Region] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)
    file: str = ""
    unlisted: tuple[Box, ...] = ()  # what is there too, though no question may name it: crowds, things of unsure names
    colours: tuple[str, ...] = ("black", "blue", "green", "orange", "purple", "red", "white", "yellow")

    @cached_property
    def _by_id(self) -> dict[int, Obj]:
        return {obj.id: obj for obj in reversed(self.objects)}

    @cached_property
    def _called(self) -> dict[str, list[Obj]]:
        called: dict[str, list[Obj]] = {}
        for obj in self.objects:
            for phrase in {obj.name, obj.phrase}:
                called.setdefault(phrase, []).append(obj)
        return called

    @cached_property
    def by_name(self) -> dict[str, list[Obj]]:
        """The objects of each name, names and objects in the order of ``objects``."""
        found: dict[str, list[Obj]] = {}
        for obj in self.objects:
            found.setdefault(obj.name, []).append(obj)
        return found

    @cached_property
    def _phrases(self) -> dict[int, str]:
        return {id(obj): self._phrase_for(obj) for obj in self.objects}

    @cached_property
    def remembered(self) -> dict:
        """What functions about this scene have found, for the next caller (`synth/tasks/space.py`)."""
        return {}

    def by_id(self, id: int) -> Obj | None:
        """Return the object with that id, or None."""
        return self._by_id.get(id)

    def named(self, phrase: str) -> list[Obj]:
        """All objects that ``phrase`` (a name, or colour and name) could mean, in their order."""
        return list(self._called.get(phrase, ()))

    def phrase_for(self, obj: Obj) -> str:
        """Return the shortest phrase that means this object alone, or nothing when there is none.

        In a scene that is not complete a thing whose colour nobody wrote down may well have that colour. In one that
        is not exhaustive there is no such phrase: a second cat may be there that nobody listed.
        """
        return self._phrases[id(obj)]

    def unique_phrases(self) -> list[tuple[str, Obj]]:
        """Return every object that a phrase means alone, with its shortest such phrase."""
        return [(phrase, obj) for obj in self.objects if (phrase := self._phrases[id(obj)])]

    def _phrase_for(self, obj: Obj) -> str:
        if not self.exhaustive:
            return ""
        if len(self.named(obj.name)) == 1:
            return obj.name
        alike = [o for o in self.named(obj.phrase) if o is not obj]
        unsure = not self.complete and any(o.name == obj.name and "colour" not in o.attributes for o in self.objects)
        return "" if alike or unsure else obj.phrase
