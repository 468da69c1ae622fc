"""Contact sheets: pictures with true boxes, spoken masks and asked points drawn in, and the texts beside them."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from synth.quality.hashes import UNREADABLE
from synth.quality.samples import Sample
from synth.quality.tables import Encoded
from synth.record import MASK, PLACEHOLDER, POINT
from synth.rle import Runs
from synth.scene import Point

SIDE = 256  # pixels: the longer side of a shown picture
COLOURS = ("#e6194b", "#0082c8", "#f58231", "#3cb44b", "#911eb4", "#008080", "#aa6e28", "#f032e6")
_POINT = "#d00000"
_COVER = 0.6  # of a mask's colour over the picture
_GAP, _TEXT_WIDTH, _LINE, _COLUMNS = 12, 300, 17, 2
_WRAP = 42  # characters a line


@dataclass(frozen=True, slots=True)
class Shown:
    """A sample ready to be looked at: the picture with its boxes, masks and points, and texts.

    In them ``[2]`` means box number 2, ``[mask 2]`` the mask of what is in it, and ``(1)`` point number 1.
    """

    picture: Image.Image
    question: str
    steps: tuple[str, ...]
    answer: str
    id: str


def show(sample: Sample) -> Shown | None:
    """Draw the boxes and points of a record into its pictures, side by side; None where one cannot be read.

    Of masks those that its texts speak of are drawn. Equal boxes of a picture share a number. Each picture is scaled so
    that its longer side is ``SIDE`` pixels.
    """
    pictures = list(map(_opened, sample.pictures))
    if not pictures or None in pictures:
        return None
    record = sample.record
    boxes: list[tuple[int, tuple[float, ...]]] = []  # picture and box
    masks: dict[int, tuple[int, dict]] = {}  # by number of the box: picture and mask

    def numbered(text: str, part: dict, boxes_in: str = "boxes") -> str:
        picture = part.get("picture") or 0 if boxes_in == "boxes" else 0
        placed = [(picture, tuple(box)) for box in part.get(boxes_in) or ()]
        boxes.extend(box for box in dict.fromkeys(placed) if box not in boxes)
        numbers = [boxes.index(box) + 1 for box in placed]
        for k in map(int, MASK.findall(text)):
            masks[numbers[k]] = picture, part["masks"][k]
        text = MASK.sub(lambda found: f"[mask {numbers[int(found[1])]}]", text)
        return PLACEHOLDER.sub(lambda found: f"[{numbers[int(found[1])]}]", text)

    question = numbered(record["question"], record, "question_boxes")
    question = POINT.sub(lambda found: f"({int(found[1]) + 1})", question)
    points = record.get("question_points") or []  # in the first picture
    steps = tuple(numbered(step["text"], step) for step in record["steps"] or ())
    answer = numbered(record["answer"], record)
    drawn = [
        draw_boxes(
            draw_masks(picture, {n: mask for n, (lies_in, mask) in masks.items() if lies_in == k}),
            {n: box for n, (lies_in, box) in enumerate(boxes, 1) if lies_in == k}, () if k else points,
        )
        for k, picture in enumerate(pictures)
    ]  # fmt: skip
    return Shown(_side_by_side(drawn), question, steps, answer, record["id"])


def _opened(encoded: Encoded) -> Image.Image | None:
    if encoded.data is None:
        return None
    try:
        with Image.open(io.BytesIO(encoded.data)) as image:
            upright = ImageOps.exif_transpose(image)
            return (image if upright.size != encoded.size == image.size else upright).convert("RGB")
    except UNREADABLE:
        return None


def _side_by_side(pictures: list[Image.Image]) -> Image.Image:
    if len(pictures) == 1:
        return pictures[0]
    width = sum(picture.width for picture in pictures) + _GAP * (len(pictures) - 1)
    row = Image.new("RGB", (width, max(picture.height for picture in pictures)), "white")
    x = 0
    for picture in pictures:
        row.paste(picture, (x, 0))
        x += picture.width + _GAP
    return row


def draw_masks(picture: Image.Image, masks: dict[int, dict]) -> Image.Image:
    """Return the picture with masks, given by number as COCO's run lengths, laid over it in the colours of their boxes.

    One that is not of this picture is not drawn: `python -m synth check` says so.
    """
    for number, mask in masks.items():
        try:
            runs = Runs.read(mask)
        except ValueError:
            continue
        if (runs.width, runs.height) == picture.size:
            shown = Image.fromarray(np.where(runs.pixels(), round(255 * _COVER), 0).astype(np.uint8))
            picture = Image.composite(Image.new("RGB", picture.size, _colour(number)), picture, shown)
    return picture


def _colour(number: int) -> str:
    return COLOURS[(number - 1) % len(COLOURS)]


def draw_boxes(picture: Image.Image, boxes: dict[int, tuple[float, ...]], points: Sequence[Point] = ()) -> Image.Image:
    """Return the picture scaled to ``SIDE`` with boxes, given by number as xyxy in its original pixels, and points.

    The outline lies around the box: its inner edge is the box's edge. A point lies in the middle of its ring.
    """
    scale = SIDE / max(picture.size)
    size = tuple(max(1, round(v * scale)) for v in picture.size)
    canvas = picture.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    pen = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(12)
    for number, box in boxes.items():
        x1, y1, x2, y2 = (round(v * size[axis % 2] / picture.size[axis % 2]) for axis, v in enumerate(box))
        colour = _colour(number)
        pen.rectangle((x1 - 2, y1 - 2, x2 + 1, y2 + 1), outline=colour, width=2)
        label = str(number)
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
    side = max([SIDE, *(one.picture.width for one in shown)])
    column = side + _TEXT_WIDTH + 2 * _GAP
    sheet = Image.new("RGB", (_COLUMNS * column + _GAP, 3 * _GAP + _LINE + sum(rows)), "white")
    pen = ImageDraw.Draw(sheet)
    pen.text((_GAP, _GAP), task, fill="black", font=ImageFont.load_default(18))
    y = 2 * _GAP + _LINE
    inks = {"question": "#000000", "step": "#555555", "answer": "#0a5c2b"}
    for k, (one, block) in enumerate(zip(shown, blocks, strict=True)):
        x = _GAP + (k % _COLUMNS) * column
        sheet.paste(one.picture, (x, y))
        for n, (kind, line) in enumerate(block):
            pen.text((x + side + _GAP, y + n * _LINE), line, fill=inks[kind], font=font)
        if k % _COLUMNS == _COLUMNS - 1:
            y += rows[k // _COLUMNS]
    return sheet


def _plain(text: str) -> str:
    """The text without line breaks and control characters, which have no place in a line."""
    return "".join(c if c.isprintable() else " " for c in text)
