"""Drawings: the right pixels change, the caller's picture does not, and a sheet appears whole or not at all."""

import os

import pytest
from PIL import Image, ImageColor

from lynx_moe.grounding import Box, SheetCell, contact_sheet, draw
from lynx_moe.grounding.drawing import ASKED_COLOUR, GUESS_COLOUR, TRUE_COLOUR
from lynx_moe.grounding.sheet import LINE_PIXELS, LINES, MARGIN, POINT


def colours(image):
    return {colour for _, colour in image.getcolors(image.width * image.height)}


def test_box_is_outlined_and_the_given_picture_stays_as_it_was():
    image = Image.new("RGB", (40, 40), "white")
    drawn = draw(image, [Box(10, 10, 30, 30)], colour="#ff0000")
    assert drawn.getpixel((10, 20)) == (255, 0, 0) and drawn.getpixel((20, 20)) == (255, 255, 255)
    assert colours(image) == {(255, 255, 255)}


def test_label_and_confidence_are_written_inside_the_picture():
    image = Image.new("RGB", (80, 40), "white")
    bare = draw(image, [Box(70, 30, 79, 39)])
    labelled = draw(image, [Box(70, 30, 79, 39, "star", 0.93)])
    assert labelled.size == image.size
    assert labelled.tobytes() != bare.tobytes()
    assert (0, 0, 0) in colours(labelled)


@pytest.mark.parametrize("box", [Box(30, 30, 10, 10), Box(-50, -50, 900, 900), Box(5, 5, 5, 5)])
def test_any_box_can_be_drawn(box):
    draw(Image.new("L", (20, 20)), [box])
    draw(Image.new("RGB", (20, 20)), [Box(*box, label="x")])


def test_sheet_has_a_cell_per_sample_with_both_colours(tmp_path):
    cells = [
        SheetCell(
            image=Image.new("RGB", size, "grey"),
            asked="Find the red star. " * 9,
            truth=[Box(4, 4, 20, 20)],
            guess=[Box(6, 6, 20, 20)],
            note="The red star is at [1, 2, 3, 4].",
        )
        for size in ((32, 32), (48, 24), (24, 48))
    ]
    path = contact_sheet(cells, tmp_path / "deep" / "sheet.png", columns=2, picture_pixels=128)
    sheet = Image.open(path).convert("RGB")
    assert sheet.width > 2 * 128 and sheet.height > 2 * 128
    assert {ImageColor.getrgb(TRUE_COLOUR), ImageColor.getrgb(GUESS_COLOUR)} <= colours(sheet)
    assert os.listdir(path.parent) == ["sheet.png"]


def test_places_that_a_question_shows_are_marked_where_they_are(tmp_path):
    cell = SheetCell(image=Image.new("RGB", (64, 64), "white"), asked="", shown=[Box(8, 8, 24, 24), (48.0, 40.0)])
    sheet = Image.open(contact_sheet([cell], tmp_path / "sheet.png", columns=1, picture_pixels=128)).convert("RGB")
    blue, left, top = ImageColor.getrgb(ASKED_COLOUR), MARGIN, MARGIN + LINES * LINE_PIXELS
    on = [(16, 16), (48, 48), (32, 16), (96 - POINT, 80), (96 + POINT, 80)]
    assert all(sheet.getpixel((left + x, top + y)) == blue for x, y in on)
    assert sheet.getpixel((left + 32, top + 32)) == (255, 255, 255)


def test_sheet_of_nothing_is_still_a_picture(tmp_path):
    assert Image.open(contact_sheet([], tmp_path / "empty.png")).size[0] > 0


def test_failed_sheet_leaves_the_old_one_and_no_rest(tmp_path):
    path = tmp_path / "sheet.png"
    contact_sheet([], path)
    before = path.read_bytes()

    class Broken(Image.Image):
        def convert(self, *args, **kwargs):
            raise OSError("torn")

    with pytest.raises(OSError, match="torn"):
        contact_sheet([SheetCell(image=_as(Broken), asked="")], path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["sheet.png"]


def _as(kind):
    image = Image.new("RGB", (4, 4))
    image.__class__ = kind
    return image
