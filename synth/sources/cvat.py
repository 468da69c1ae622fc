"""CVAT's own export, "CVAT for images 1.1": one XML file for all pictures."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from xml.etree.ElementTree import Element, XMLParser

from synth.errors import SourceError
from synth.sources.annotation import Annotated, Outline, Thing, Vocabulary
from synth.sources.fault import Fault
from synth.sources.format import Format, Items, digest_of
from synth.sources.masks import extent
from synth.sources.options import Folder
from synth.sources.pictures import PictureFolder
from synth.sources.safe_xml import XML_FAULTS, NoDoctype, as_number

_SHAPES = ("box", "polygon", "ellipse", "mask", "polyline", "points", "cuboid", "skeleton")
_USUAL = ("annotations.xml",)


def read(folder: Folder, work: Path) -> Items:
    """Yield the pictures; lines, points and skeletons have no extent, and make their label unsure.

    The attribute "colour" or "color" becomes the colour; other values, and ticked boxes, become traits.
    """
    for node in _elements(folder.annotations(*_USUAL)):
        if node.tag == "labels":
            yield Vocabulary(tuple((name.text or "").strip() for name in node.iterfind("label/name")))
        elif not node.get("name"):
            yield Fault("picture without a file name", f"image {node.get('id')}")
        else:
            yield Annotated(
                file=node.get("name"), width=as_number(node.get("width")), height=as_number(node.get("height")),
                things=[_thing(k, shape) for k, shape in enumerate(s for s in node if s.tag in _SHAPES)],
                split=(node.get("subset") or "").lower() or None,
            )  # fmt: skip


def _thing(k: int, shape: Element) -> Thing:
    box, outline = _outline(shape)
    attributes, traits = {}, []
    for node in shape.iterfind("attribute"):
        name, value = (node.get("name") or "").strip(), (node.text or "").strip()
        if name.lower() in ("colour", "color") and value:
            attributes["colour"] = value.lower()
        elif value and value.lower() != "false":
            traits.append(name if value.lower() == "true" else value)
    name = (shape.get("label") or "").strip() or None
    row = f"{shape.tag} {k + 1}"
    return Thing(id=k, name=name, box=box, row=row, outline=outline, attributes=attributes, traits=traits)


def _outline(shape: Element) -> tuple[list | None, Outline | None]:
    """Return a shape's box and outline; (None, None) for what has no extent or a number missing."""
    keys = {"box": "xtl ytl xbr ybr", "ellipse": "cx cy rx ry", "mask": "left top width height"}.get(shape.tag, "")
    values = [as_number(shape.get(key)) for key in keys.split()]
    if None in values:
        return None, None
    turn = math.radians(as_number(shape.get("rotation")) or 0.0)
    if shape.tag == "box":
        x1, y1, x2, y2 = values
        if not turn:
            return values, None
        corners = [(x1, y1), (x2, y1), (x2, y2), (x1, y2)]
        polygon = [v for point in corners for v in _turned(point, ((x1 + x2) / 2, (y1 + y2) / 2), turn)]
        return extent([polygon]), {"polygons": [polygon]}
    if shape.tag == "ellipse":
        cx, cy, rx, ry = values
        half = (
            math.hypot(rx * math.cos(turn), ry * math.sin(turn)),
            math.hypot(rx * math.sin(turn), ry * math.cos(turn)),
        )
        box = [cx - half[0], cy - half[1], cx + half[0], cy + half[1]]
        return box, None if turn else {"ellipse": values}
    if shape.tag == "mask":
        left, top, width, height = values
        counts = [as_number(run) for run in (shape.get("rle") or "").split(",")]
        return [left, top, left + width, top + height], {"patch": {"box": values, "counts": counts}}
    if shape.tag == "polygon":
        polygon = [as_number(v) for point in (shape.get("points") or "").split(";") for v in point.split(",")]
        return extent([polygon]), {"polygons": [polygon]}
    return None, None


def _turned(point: tuple[float, float], centre: tuple[float, float], turn: float) -> tuple[float, float]:
    """Return a point turned about a centre, clockwise as seen (y points down)."""
    x, y = point[0] - centre[0], point[1] - centre[1]
    return (
        centre[0] + x * math.cos(turn) - y * math.sin(turn),
        centre[1] + x * math.sin(turn) + y * math.cos(turn),
    )


class _Target(NoDoctype):
    """Builds one <image> or <labels> element at a time: an export may be far larger than memory."""

    def __init__(self) -> None:
        self.done: list[Element] = []
        self._open: list[Element] = []

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        if self._open or tag in ("image", "labels"):
            node = Element(tag, attributes)
            if self._open:
                self._open[-1].append(node)
            self._open.append(node)

    def data(self, text: str) -> None:
        if self._open:
            self._open[-1].text = (self._open[-1].text or "") + text

    def end(self, tag: str) -> None:
        if self._open:
            node = self._open.pop()
            if not self._open:
                self.done.append(node)


def _elements(path: Path) -> Iterator[Element]:
    target = _Target()
    parser = XMLParser(target=target)
    try:
        with open(path, "rb") as file:
            while chunk := file.read(1 << 16):
                parser.feed(chunk)
                yield from target.done
                target.done.clear()
        parser.close()
    except XML_FAULTS as problem:
        raise SourceError(
            f"{path} is not a CVAT export", why=str(problem), fix="export it again as CVAT for images 1.1"
        ) from problem


FORMAT = Format(
    read=read, pictures=lambda folder: PictureFolder(folder.pictures("images")), own_splits=True,
    digest=lambda folder: digest_of([folder.annotations(*_USUAL)], folder.path), expects="annotations.xml and images/",
    signs=(_USUAL,), uses=("annotations", "images"), holds=b"<image",
)  # fmt: skip
