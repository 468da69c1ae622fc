"""Contact sheets: pictures with true boxes and asked points drawn in, and question, steps and answer beside them."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont, ImageOps

from synth.quality.hashes import UNREADABLE
from synth.quality.samples import Sample
from synth.record import PLACEHOLDER, POINT
from synth.scene import Point

SIDE = 256  # pixels: the longer side of a shown picture
COLOURS = ("#e6194b", "#0082c8", "#f58231", "#3cb44b", "#911eb4", "#008080", "#aa6e28", "#f032e6")
_POINT = "#d00000"
_GAP, _TEXT_WIDTH, _LINE, _COLUMNS = 12, 300, 17, 2
_WRAP = 42  # characters a line


@dataclass(frozen=True, slots=True)
class Shown:
    """A sample ready to be looked at: the picture with its boxes and points, and texts in which ``[2]`` means box
    number 2 and ``(1)`` point number 1."""

    picture: Image.Image
    question: str
    steps: tuple[str, ...]
    answer: str
    id: str


def show(sample: Sample) -> Shown | None:
    """Draw the boxes and points of a record into its picture; None where there is no readable picture.

    Equal boxes share a number. The picture is scaled so that its longer side is ``SIDE`` pixels.
    """
    if sample.picture.data is None:
        return None
    try:
        with Image.open(io.BytesIO(sample.picture.data)) as image:
            upright = ImageOps.exif_transpose(image)
            picture = (image if upright.size != sample.picture.size == image.size else upright).convert("RGB")
    except UNREADABLE:
        return None
    record = sample.record
    boxes: list[tuple[float, ...]] = []

    def numbered(text: str, own: list[list[float]]) -> str:
        for box in own:
            if tuple(box) not in boxes:
                boxes.append(tuple(box))
        return PLACEHOLDER.sub(lambda found: f"[{boxes.index(tuple(own[int(found[1])])) + 1}]", text)

    points = record.get("question_points") or []
    question = POINT.sub(
        lambda found: f"({int(found[1]) + 1})", numbered(record["question"], record.get("question_boxes") or [])
    )
    steps = tuple(numbered(step["text"], step["boxes"]) for step in record["steps"] or ())
    answer = numbered(record["answer"], record["boxes"])
    return Shown(draw_boxes(picture, boxes, points), question, steps, answer, record["id"])


def draw_boxes(picture: Image.Image, boxes: list[tuple[float, ...]], points: Sequence[Point] = ()) -> Image.Image:
    """Return the picture scaled to ``SIDE`` with numbered boxes, given as xyxy in its original pixels, and points.

    The outline lies around the box: its inner edge is the box's edge. A point lies in the middle of its ring.
    """
    scale = SIDE / max(picture.size)
    size = tuple(max(1, round(v * scale)) for v in picture.size)
    canvas = picture.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    pen = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(12)
    for k, box in enumerate(boxes):
        x1, y1, x2, y2 = (round(v * size[axis % 2] / picture.size[axis % 2]) for axis, v in enumerate(box))
        colour = COLOURS[k % len(COLOURS)]
        pen.rectangle((x1 - 2, y1 - 2, x2 + 1, y2 + 1), outline=colour, width=2)
        label = str(k + 1)
        width = pen.textlength(label, font=font) + 4
        left, top = max(0, min(x1 - 2, size[0] - width)), max(0, y1 - 16)
        pen.rectangle((left, top, left + width, top + 14), fill=colour)
        pen.text((left + 2, top), label, fill="white", font=font)
    for k, point in enumerate(points):
        x, y = (v * size[axis] / picture.size[axis] for axis, v in enumerate(point))
        for radius, ink in ((5, "black"), (4, "white"), (3, _POINT)):
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), outline=ink)
        label = f"({k + 1})"
        left = max(0, min(x + 7, size[0] - pen.textlength(label, font=font)))
        pen.text((left, max(0, y - 18)), label, fill=_POINT, font=font, stroke_width=1, stroke_fill="white")
    return canvas


def contact_sheet(task: str, shown: list[Shown]) -> Image.Image:
    """Lay samples of one task out in two columns, text beside each picture."""
    font = ImageFont.load_default(14)
    blocks = []
    for one in shown:
        lines = [("question", one.question), *(("step", text) for text in one.steps), ("answer", one.answer)]
        blocks.append([(kind, part) for kind, text in lines for part in textwrap.wrap(_plain(text), _WRAP) or [""]])
    heights = [max(SIDE, len(block) * _LINE) + _GAP for block in blocks]
    rows = [max(heights[k : k + _COLUMNS]) for k in range(0, len(heights), _COLUMNS)]
    column = SIDE + _TEXT_WIDTH + 2 * _GAP
    sheet = Image.new("RGB", (_COLUMNS * column + _GAP, 3 * _GAP + _LINE + sum(rows)), "white")
    pen = ImageDraw.Draw(sheet)
    pen.text((_GAP, _GAP), task, fill="black", font=ImageFont.load_default(18))
    y = 2 * _GAP + _LINE
    inks = {"question": "#000000", "step": "#555555", "answer": "#0a5c2b"}
    for k, (one, block) in enumerate(zip(shown, blocks, strict=True)):
        x = _GAP + (k % _COLUMNS) * column
        sheet.paste(one.picture, (x, y))
        for n, (kind, line) in enumerate(block):
            pen.text((x + SIDE + _GAP, y + n * _LINE), line, fill=inks[kind], font=font)
        if k % _COLUMNS == _COLUMNS - 1:
            y += rows[k // _COLUMNS]
    return sheet


def _plain(text: str) -> str:
    """The text without line breaks and control characters, which have no place in a line."""
    return "".join(c if c.isprintable() else " " for c in text)
