"""A contact sheet: many pictures on one page, with what was asked, what is true and what was answered."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, ImageDraw

from lynx_moe.grounding.box import Box, iou
from lynx_moe.grounding.drawing import ASKED_COLOUR, GUESS_COLOUR, TRUE_COLOUR, font, plate, tint
from lynx_moe.grounding.masks import Mask

MARGIN = 8
LINES = 2
TEXT_PIXELS = 14
LINE_PIXELS = 18
POINT = 5  # pixels of the sheet from a point to the edge of its mark


@dataclass(kw_only=True, slots=True)
class SheetCell:
    """One picture of a sheet; boxes, points (x, y) and masks are original pixels.

    `asked` is written above it, `note` (the answer) below; `shown` is what the question points at.
    """

    image: Image.Image
    asked: str
    truth: Sequence[Box] = field(default_factory=list)
    guess: Sequence[Box] = field(default_factory=list)
    note: str = ""
    truth_masks: Sequence[Mask] = ()
    guess_masks: Sequence[Mask] = ()
    shown: Sequence[Box | tuple[float, float]] = ()


def contact_sheet(
    cells: Sequence[SheetCell], path: str | os.PathLike, *, columns: int = 5, picture_pixels: int = 256
) -> Path:
    """Write a grid of pictures to `path` and return it: true boxes and masks green, answered ones orange, boxes with
    their best IoU, places that the question shows blue.

    Small pictures are enlarged so that their longer side has `picture_pixels`. The file appears whole or not at all.
    """
    columns = max(1, min(columns, len(cells)))
    rows = -(-len(cells) // columns) if cells else 1
    text_height = LINES * LINE_PIXELS
    cell_width, cell_height = picture_pixels + MARGIN, picture_pixels + 2 * text_height + MARGIN
    sheet = Image.new("RGB", (columns * cell_width + MARGIN, rows * cell_height + MARGIN), "white")
    pen = ImageDraw.Draw(sheet)
    for place, cell in enumerate(cells):
        left = MARGIN + place % columns * cell_width
        top = MARGIN + place // columns * cell_height
        _write(pen, (left, top), cell.asked, picture_pixels, "black")
        picture = _picture(cell, picture_pixels)
        sheet.paste(picture, (left, top + text_height))
        _write(pen, (left, top + text_height + picture.height + 2), cell.note, picture_pixels, "#7a2a00")
    return _save_whole(sheet, Path(path))


def _picture(cell: SheetCell, pixels: int) -> Image.Image:
    scale = pixels / max(cell.image.size)
    width, height = (max(1, round(side * scale)) for side in cell.image.size)
    # Enlarged pixels stay sharp: the reader should see what the model saw, not a smoothed version of it.
    how = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BICUBIC
    canvas = cell.image.convert("RGB").resize((width, height), how)
    tint(canvas, cell.truth_masks, TRUE_COLOUR)
    tint(canvas, cell.guess_masks, GUESS_COLOUR)
    pen = ImageDraw.Draw(canvas)
    shown = [place if isinstance(place, Box) else _around(place, POINT / scale) for place in cell.shown]
    for boxes, colour in ((shown, ASKED_COLOUR), (cell.truth, TRUE_COLOUR), (cell.guess, GUESS_COLOUR)):
        for box in boxes:
            x1, y1, x2, y2 = (value * scale for value in box)
            if x1 <= x2 and y1 <= y2:
                # A thin dark line around the coloured one keeps it visible on any background.
                pen.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline="black")
                pen.rectangle((x1, y1, x2, y2), outline=colour, width=2)
    for box in cell.guess:
        words = f"{max((iou(box, true) for true in cell.truth), default=0.0):.2f}"
        plate(pen, (box.x1 * scale, box.y1 * scale), words, colour=GUESS_COLOUR, pixels=13, limit=canvas.size)
    return canvas


def _around(point: tuple[float, float], reach: float) -> Box:
    """The small square that a point is drawn as."""
    x, y = point
    return Box(x - reach, y - reach, x + reach, y + reach)


def _write(pen: ImageDraw.ImageDraw, corner: tuple[int, int], words: str, width: int, colour: str) -> None:
    face = font(TEXT_PIXELS)
    for number, line in enumerate(_wrap(pen, words, width, face)):
        pen.text((corner[0], corner[1] + number * LINE_PIXELS), line, fill=colour, font=face)


def _wrap(pen: ImageDraw.ImageDraw, words: str, width: int, face: object) -> list[str]:
    """At most `LINES` lines of whole words; what does not fit is cut with an ellipsis."""
    lines = [""]
    left_over = False
    for word in words.split():
        longer = f"{lines[-1]} {word}".strip()
        if pen.textlength(longer, font=face) <= width:
            lines[-1] = longer
        elif len(lines) < LINES and lines[-1]:
            lines.append(word)
        else:
            left_over = True
            break
    if left_over or pen.textlength(lines[-1], font=face) > width:
        while lines[-1] and pen.textlength(lines[-1] + "…", font=face) > width:
            lines[-1] = lines[-1][:-1]
        lines[-1] += "…"
    return lines


def _save_whole(sheet: Image.Image, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        sheet.save(aside)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    return path
