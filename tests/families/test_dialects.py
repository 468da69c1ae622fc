"""Boxes to text and back in every frame a processor makes, and what a strict reader refuses."""

import re
import time
from collections import Counter

import numpy as np
import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lynx_moe.errors import ConfigError, DialectError, FamilyError
from lynx_moe.families.dialects import DIALECTS, Geometry, LlavaDialect, PercentDialect, get_dialect
from lynx_moe.families.dialects.base import ERROR_KINDS
from lynx_moe.grounding import Box

NAN, INF = float("nan"), float("inf")
EDGE = {"size": {"shortest_edge": 48}, "crop_size": {"height": 48, "width": 48}}
PROCESSORS = {
    "pads to a square": transformers.LlavaImageProcessorPil(do_pad=True, **EDGE),
    "pads, then crops": transformers.LlavaImageProcessorPil(
        do_pad=True, size={"shortest_edge": 48}, crop_size={"height": 32, "width": 32}
    ),
    "crops the centre": transformers.LlavaImageProcessorPil(**EDGE),
    "crops the centre of a larger one": transformers.CLIPImageProcessorPil(
        size={"shortest_edge": 60}, crop_size={"height": 48, "width": 40}
    ),
    "resizes plainly": transformers.SiglipImageProcessorPil(size={"height": 48, "width": 48}),
}


@pytest.fixture(params=PROCESSORS, name="images")
def _images(request):
    return PROCESSORS[request.param]


@pytest.fixture(params=DIALECTS.names(), name="name")
def _name(request):
    return request.param


sizes = st.tuples(st.integers(1, 4000), st.integers(1, 4000))
fractions = st.floats(0, 1, allow_nan=False)


def box_in(size, a, b, c, d):
    (x1, x2), (y1, y2) = sorted((a * size[0], b * size[0])), sorted((c * size[1], d * size[1]))
    return Box(x1, y1, x2, y2)


@pytest.mark.parametrize("name", DIALECTS.names())
@pytest.mark.parametrize("kind", PROCESSORS)
@settings(max_examples=200, deadline=None)
@given(size=sizes, a=fractions, b=fractions, c=fractions, d=fractions)
def test_decoding_what_was_encoded_gives_the_visible_box_within_one_quantum(name, kind, size, a, b, c, d):
    dialect = get_dialect(name, PROCESSORS[kind])
    box = box_in(size, a, b, c, d)
    seen = dialect.geometry.visible(box, size)
    if seen is None:
        with pytest.raises(DialectError):
            dialect.encode(box, size)
        return
    parsed = dialect.decode(dialect.encode(box, size), size)
    assert len(parsed.boxes) == 1 and not parsed.errors
    _, _, width, height = dialect.geometry.window(size)
    back = parsed.boxes[0]
    for got, true, side in zip(back, seen, (width, height) * 2, strict=True):
        assert abs(got - true) <= dialect.quantum * side * (1 + 1e-9)


@pytest.mark.parametrize("name", DIALECTS.names())
@pytest.mark.parametrize("kind", PROCESSORS)
@settings(max_examples=200, deadline=None)
@given(size=sizes, a=fractions, b=fractions)
def test_a_point_is_written_within_half_a_quantum_in_the_frame_of_boxes_or_refused_where_it_cannot_be_seen(
    name, kind, size, a, b
):
    dialect = get_dialect(name, PROCESSORS[kind])
    point = a * size[0], b * size[1]
    left, top, width, height = dialect.geometry.window(size)
    if not (left <= point[0] <= left + width and top <= point[1] <= top + height):
        with pytest.raises(DialectError, match="not visible"):
            dialect.encode_point(point, size)
        return
    text = dialect.encode_point(point, size)
    shares = [dialect.read(part) for part in re.fullmatch(r"\[([^,]+), ([^,]+)\]", text).groups()]
    assert all(0 <= share <= 1 for share in shares)
    for got, true, start, side in zip(shares, point, (left, top), (width, height), strict=True):
        assert abs(start + got * side - true) <= dialect.quantum / 2 * side * (1 + 1e-6)


def test_encoding_twice_changes_nothing(images, name):
    dialect = get_dialect(name, images)
    for size in ((640, 480), (333, 517), (100, 100)):
        box = Box(size[0] * 0.4, size[1] * 0.42, size[0] * 0.61, size[1] * 0.57)
        text = dialect.encode(box, size)
        assert dialect.encode(dialect.decode(text, size).boxes[0], size) == text


@pytest.mark.parametrize("size", [(96, 96), (120, 60), (60, 120), (97, 55), (50, 201)])
def test_window_is_where_the_processor_really_looks(images, size):
    """Measured: a picture whose red grows with x and whose green grows with y goes through the processor itself."""
    width, height = size
    ramp = np.zeros((height, width, 3), dtype=np.uint8)
    ramp[..., 0] = (50 + np.arange(width) * 200 / width).round()[None, :]
    ramp[..., 1] = (50 + np.arange(height) * 200 / height).round()[:, None]
    ramp[..., 2] = 255
    made = images(images=Image.fromarray(ramp), do_normalize=False, do_rescale=False, return_tensors="np")
    red, green, blue = made["pixel_values"][0].astype(float)
    rows, columns = np.nonzero(blue > 254.5)  # only the picture itself is fully blue, padding is not
    inside = slice(2, -2) if len(np.unique(columns)) > 8 else slice(None)
    columns_seen, rows_seen = np.unique(columns)[inside], np.unique(rows)[inside]
    out_height, out_width = red.shape
    middle_row, middle_column = rows_seen[len(rows_seen) // 2], columns_seen[len(columns_seen) // 2]
    # Value -> original coordinate of a pixel's centre; a line through them gives both ends of the window.
    original_x = (red[middle_row, columns_seen] - 50) / 200 * width + 0.5
    original_y = (green[rows_seen, middle_column] - 50) / 200 * height + 0.5
    slope_x, start_x = np.polyfit(columns_seen + 0.5, original_x, 1)
    slope_y, start_y = np.polyfit(rows_seen + 0.5, original_y, 1)
    left, top, window_width, window_height = Geometry.from_processor(images).window(size)
    pixel = max(slope_x, slope_y, 1.0)
    assert start_x == pytest.approx(left, abs=1.5 * pixel)
    assert start_y == pytest.approx(top, abs=1.5 * pixel)
    assert slope_x * out_width == pytest.approx(window_width, abs=2.5 * pixel)
    assert slope_y * out_height == pytest.approx(window_height, abs=2.5 * pixel)


def test_padded_square_moves_a_box_and_a_plain_resize_does_not():
    size = (200, 100)
    assert get_dialect("percent", PROCESSORS["pads to a square"]).encode((0, 0, 200, 100), size) == "[0, 25, 100, 75]"
    assert get_dialect("percent", PROCESSORS["resizes plainly"]).encode((0, 0, 200, 100), size) == "[0, 0, 100, 100]"


def test_centre_crop_hides_the_ends_of_a_wide_picture():
    dialect = get_dialect("llava", PROCESSORS["crops the centre"])
    assert dialect.encode((0, 0, 200, 100), (200, 100)) == "[0.00, 0.00, 1.00, 1.00]"
    with pytest.raises(DialectError, match="nothing of the box"):
        dialect.encode((0, 0, 49, 100), (200, 100))


@pytest.mark.parametrize(
    "images",
    [
        transformers.LlavaNextImageProcessorPil(),
        transformers.LlavaOnevisionImageProcessorPil(),
        transformers.SmolVLMImageProcessorPil(),
        transformers.Qwen2VLImageProcessorPil(),
        transformers.GotOcr2ImageProcessorPil(),
        transformers.PixtralImageProcessorPil(),
    ],
    ids=lambda p: type(p).__name__,
)
def test_families_that_tile_count_in_the_picture_itself(images):
    assert Geometry.from_processor(images).window((300, 200)) == (0, 0, 300, 200)


def test_padding_that_cannot_be_placed_is_refused():
    images = transformers.SiglipImageProcessorPil()
    images.do_pad = True
    with pytest.raises(FamilyError, match="SiglipImageProcessorPil"):
        Geometry.from_processor(images)


def test_view_shows_the_seen_part_of_the_picture():
    image = Image.new("RGB", (200, 100), "white")
    assert Geometry.from_processor(PROCESSORS["pads to a square"]).view(image).size == (200, 200)
    cropped = Geometry.from_processor(PROCESSORS["crops the centre"]).view(image)
    assert cropped.size == (100, 100)


def test_the_papers_own_example_reads_back():
    text = "Step 1: Find the man at [0, 13, 29, 100]. Step 2: Check the object he is looking at [21, 40, 100, 100]."
    parsed = PercentDialect().decode(text, (100, 100))
    assert [box.xyxy for box in parsed.boxes] == [pytest.approx(b) for b in ((0, 13, 29, 100), (21, 40, 100, 100))]
    assert [text[a:b] for a, b in parsed.spans] == ["[0, 13, 29, 100]", "[21, 40, 100, 100]"]
    assert not parsed.errors


@pytest.mark.parametrize(
    ("text", "errors"),
    [
        ("[1, 2, 3]", {"unparseable": 1}),
        ("[1, 2, 3, 4, 5]", {"unparseable": 1}),
        ("[1, 2, 3, four]", {"unparseable": 1}),
        ("[1, 2, 3, 4", {"unparseable": 1}),
        ("[0.1, 0.2, 0.3, 0.4]", {"unparseable": 1}),
        ("[1, 2, 3, 101]", {"out_of_range": 1}),
        ("[-1, 2, 3, 10]", {"out_of_range": 1}),
        ("[30, 2, 3, 10]", {"inverted": 1}),
        ("[3, 10, 30, 10]", {"inverted": 1}),
        ("[1, 2, 3, ١٢]", {"unparseable": 1}),
        (f"[1, 2, 3, {'9' * 5000}]", {"unparseable": 1}),
        ("no box here", {}),
        ("1, 2, 3, 4", {}),
        ("[1, 2] [3, 4, 5, 999] [9, 9, 8, 8]", {"unparseable": 1, "out_of_range": 1, "inverted": 1}),
    ],
)
def test_what_is_not_a_box_is_counted_by_kind(text, errors):
    parsed = PercentDialect().decode(text, (100, 100))
    assert not parsed.boxes and parsed.errors == Counter(errors)


def test_a_percent_answer_is_not_guessed_to_be_fractions_nor_the_other_way_round():
    assert LlavaDialect().decode("[10, 20, 30, 40]", (100, 100)).errors == {"out_of_range": 1}
    assert PercentDialect().decode("[0.10, 0.20, 0.30, 0.40]", (100, 100)).errors == {"unparseable": 1}


def test_a_box_wholly_in_the_padding_is_out_of_range():
    assert PercentDialect(Geometry(pad_square=True)).decode("[0, 0, 50, 20]", (200, 100)).errors == {"out_of_range": 1}


def test_a_box_that_reaches_into_the_padding_ends_at_the_picture():
    box = PercentDialect(Geometry(pad_square=True)).decode("[0, 20, 50, 60]", (200, 100)).boxes[0]
    assert box.xyxy == (0, 0, 100, 70)


@given(text=st.text(alphabet="[]0123456789., -+eE{}boxnaif\n", max_size=300))
@settings(max_examples=500, deadline=None)
def test_no_text_makes_decoding_fail(text):
    for name in DIALECTS:
        parsed = DIALECTS.get(name)().decode(text, (640, 480))
        assert set(parsed.errors) <= set(ERROR_KINDS) and len(parsed.spans) == len(parsed.boxes)


@pytest.mark.parametrize("text", ["[" * 400_000, "[1," * 200_000, "[1, 2, 3, 4 " * 50_000, "1" * 400_000 + "]"])
def test_decoding_time_grows_with_the_text_and_not_faster(text, name):
    dialect = DIALECTS.get(name)()
    # Processor time, so that a busy machine does not fail the test; a quadratic reader would need minutes.
    started = time.process_time()
    dialect.decode(text, (640, 480))
    assert time.process_time() - started < 10


@pytest.mark.parametrize("box", [(0, 0, NAN, 1), (0, 0, INF, 1), (1, 2, 3), (5, 5, 5, 9), (9, 9, 5, 5)])
def test_what_is_no_box_cannot_be_written(box, name):
    with pytest.raises(DialectError):
        DIALECTS.get(name)().encode(box, (100, 100))


def test_placeholders_become_boxes_in_any_order():
    boxes = [(0, 0, 10, 10), (20, 20, 40, 40)]
    text = PercentDialect().render("Found {box:1} and {box:0}, {box} {0}.", boxes, (100, 100))
    assert text == "Found [20, 20, 40, 40] and [0, 0, 10, 10], {box} {0}."


def test_placeholder_without_a_box_is_refused():
    with pytest.raises(DialectError, match=re.escape("{box:1}")):
        PercentDialect().render("at {box:1}", [(0, 0, 10, 10)], (100, 100))


@pytest.mark.parametrize("point", [(0, NAN), (INF, 1), (1, 2, 3), (5,), (-1, 5), (5, 101)])
def test_what_is_no_point_of_the_picture_cannot_be_written(point, name):
    with pytest.raises(DialectError):
        DIALECTS.get(name)().encode_point(point, (100, 100))


def test_points_and_boxes_of_one_text_are_kept_apart():
    text = PercentDialect().render(
        "{point:0} or {point:1} in {box:0}?", [(0, 0, 10, 10)], (200, 100), [(20, 30), (200, 0)]
    )
    assert text == "[10, 30] or [100, 0] in [0, 0, 5, 10]?"
    for lost in ("{point:2}", "{box:1}"):
        with pytest.raises(DialectError, match=re.escape(lost)):
            PercentDialect().render(lost, [(0, 0, 10, 10)], (200, 100), [(20, 30), (200, 0)])
    with pytest.raises(DialectError, match="has no point"):
        PercentDialect().render("{point:0}", [(0, 0, 10, 10)], (200, 100))


def test_unknown_dialect_offers_the_nearest_name():
    with pytest.raises(ConfigError, match="percent"):
        get_dialect("percents", PROCESSORS["resizes plainly"])
