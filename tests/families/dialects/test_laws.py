"""What holds for every registered dialect, in every frame a processor makes."""

import re
import time
from collections import Counter

import pytest
import transformers
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lynx_moe.errors import ConfigError, DialectError, FamilyError
from lynx_moe.families.dialects import DIALECTS, Dialect, Geometry, dialect_of, get_dialect
from lynx_moe.families.dialects.base import ERROR_KINDS
from lynx_moe.grounding import Box

NAN, INF = float("nan"), float("inf")
NAMES = DIALECTS.names()
PROCESSORS = {
    "pads to a square": transformers.LlavaImageProcessorPil(
        do_pad=True, size={"shortest_edge": 48}, crop_size={"height": 48, "width": 48}
    ),
    "pads, then crops": transformers.LlavaImageProcessorPil(
        do_pad=True, size={"shortest_edge": 48}, crop_size={"height": 32, "width": 32}
    ),
    "crops the centre": transformers.CLIPImageProcessorPil(
        size={"shortest_edge": 60}, crop_size={"height": 48, "width": 40}
    ),
    "resizes plainly": transformers.SiglipImageProcessorPil(size={"height": 48, "width": 48}),
    "pads in the corner": transformers.MllamaImageProcessorPil(),
    "resizes to multiples": transformers.Qwen2VLImageProcessorPil(max_pixels=300 * 300),
}
HOSTILE = [
    "[", "[[", "{", "(", "<", "[1,", "[1, 2, 3, 4 ", "{[(<", '{"bbox_2d": [', '{"bbox_2d": [1, 2, 3, 4], "label": "',
    '{"', '{"\\"', "<box>", "<ref>", "<ref>a</ref>", "<box>(1,2),(", "<|det|>[[", "<|box_start|>", "(1,2),", "1", "1,",
    "[1 ", "٣", "-", "1e9, ", "<|begin_of_box|>[", '"', "\\", "\n", "<loc_1>", "<loc0001>", "<object>", '<points x="1"',
]  # fmt: skip

sizes = st.tuples(st.integers(1, 4000), st.integers(1, 4000))
fractions = st.floats(0, 1, allow_nan=False)


@pytest.fixture(params=NAMES, name="dialect")
def _dialect(request):
    return DIALECTS.get(request.param)()


def spoken_with(name: str, kind: str) -> Dialect | None:
    """The dialect with a processor, or None where it refuses that processor, as absolute pixels must."""
    try:
        return get_dialect(name, PROCESSORS[kind])
    except FamilyError:
        assert kind != "resizes to multiples"
        return None


def writes_boxes(dialect: Dialect) -> bool:
    """False for families that were taught points only: they refuse what nobody could call invisible."""
    try:
        return bool(dialect.encode((20, 20, 60, 60), (100, 100)))
    except DialectError:
        return False


def reads_points(dialect: Dialect) -> bool:
    """False for families that have no spelling of a point of their own, and write one in questions only."""
    try:
        return bool(dialect.decode(dialect.encode_point((50, 50), (100, 100)), (100, 100)).points)
    except DialectError:
        return False


def box_in(size, a, b, c, d):
    (x1, x2), (y1, y2) = sorted((a * size[0], b * size[0])), sorted((c * size[1], d * size[1]))
    return Box(x1, y1, x2, y2)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=100, deadline=None)
@given(kind=st.sampled_from(list(PROCESSORS)), size=sizes, a=fractions, b=fractions, c=fractions, d=fractions)
def test_decoding_what_was_encoded_gives_the_visible_box_within_the_dialects_resolution(name, kind, size, a, b, c, d):
    dialect = spoken_with(name, kind)
    if dialect is None or not writes_boxes(dialect):
        return
    box = box_in(size, a, b, c, d)
    seen = dialect.geometry.visible(box, size)
    if seen is None:
        with pytest.raises(DialectError):
            dialect.encode(box, size)
        return
    parsed = dialect.decode(dialect.encode(box, size), size)
    assert len(parsed.boxes) == len(parsed.spans) == 1 and not parsed.errors and not parsed.points
    for got, true, step in zip(parsed.boxes[0], seen, dialect.resolution(size) * 2, strict=True):
        assert abs(got - true) <= step * (1 + 1e-5)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=100, deadline=None)
@given(kind=st.sampled_from(list(PROCESSORS)), size=sizes, a=fractions, b=fractions)
def test_a_point_comes_back_within_the_dialects_resolution_or_is_refused_where_it_cannot_be_seen(
    name, kind, size, a, b
):
    dialect = spoken_with(name, kind)
    if dialect is None or not reads_points(dialect):
        return
    point = a * size[0], b * size[1]
    left, top, width, height = dialect.geometry.window(size)
    if not (left <= point[0] <= left + width and top <= point[1] <= top + height):
        with pytest.raises(DialectError, match="not visible"):
            dialect.encode_point(point, size)
        return
    # A point at the very edge may be rounded into the padding beside it, where a reader must not take it.
    step = dialect.resolution(size)
    assume(all(min(value, side - value) >= s for value, side, s in zip(point, size, step, strict=True)))
    parsed = dialect.decode(dialect.encode_point(point, size), size)
    assert len(parsed.points) == 1 and not parsed.errors and not parsed.boxes
    for got, true, s in zip(parsed.points[0], point, step, strict=True):
        assert abs(got - true) <= s * (1 + 1e-5)


@pytest.mark.parametrize("kind", PROCESSORS)
@pytest.mark.parametrize("name", NAMES)
def test_encoding_twice_changes_nothing(name, kind):
    dialect = spoken_with(name, kind)
    if dialect is None or not writes_boxes(dialect):
        return
    for size in ((640, 480), (333, 517), (100, 100), (3000, 41)):
        box = Box(size[0] * 0.4, size[1] * 0.42, size[0] * 0.61, size[1] * 0.57, "a cat")
        text = dialect.encode(box, size)
        assert dialect.encode(dialect.decode(text, size).boxes[0], size) == text


@given(label=st.text(alphabet=st.characters(exclude_characters="<>", exclude_categories=["C", "Z"]), max_size=30))
@settings(max_examples=100, deadline=None)
def test_a_label_comes_back_as_it_was_where_the_spelling_has_a_place_for_one(label):
    for name in NAMES:
        dialect = DIALECTS.get(name)()
        if not writes_boxes(dialect) or "cat" not in dialect.encode(Box(20, 20, 60, 60, "cat"), (100, 100)):
            continue
        try:
            text = dialect.encode(Box(20, 20, 60, 60, label), (100, 100))
        except DialectError:  # a name with a character that means something there
            assert not label.isalnum()
            continue
        (box,) = dialect.decode(text, (100, 100)).boxes
        assert box.label == label


@given(
    label=st.text(max_size=60)
    | st.lists(st.sampled_from([*HOSTILE, "</box>", "}", '"}', "]]", ">", "|>"])).map("".join)
)
@settings(max_examples=100, deadline=None)
def test_no_label_can_break_the_box_it_stands_beside(label):
    for name in NAMES:
        dialect = DIALECTS.get(name)()
        if writes_boxes(dialect):
            bare = dialect.decode(dialect.encode((20, 20, 60, 60), (100, 100)), (100, 100)).boxes[0]
            try:
                text = dialect.encode(Box(20, 20, 60, 60, label), (100, 100))
            except DialectError:  # refusing is as safe as leaving characters out
                continue
            parsed = dialect.decode(text, (100, 100))
            assert [box.xyxy for box in parsed.boxes] == [bare.xyxy] and not parsed.errors, text


def test_the_same_numbers_always_mean_the_same_place_whatever_the_size_of_the_picture(dialect):
    """No reader takes small numbers for fractions, nor large ones for pixels."""
    if not writes_boxes(dialect):
        return
    if dialect.name == "qwen2_5_vl":  # pixels: the fraction follows the resize, the pixel never does
        dialect.resize = None
        text = dialect.encode((1, 2, 3, 4), (1000, 700))
        assert dialect.decode(text, (33, 44)).boxes == dialect.decode(text, (4000, 3000)).boxes
        return
    for corners in ((0, 0, 0.01, 0.01), (0, 0, 1, 1), (0.3, 0.1, 0.9, 0.11)):
        text = dialect.encode([value * 1000 for value in corners], (1000, 1000))
        for width, height in ((1, 1), (640, 480), (31, 4000)):
            (box,) = dialect.decode(text, (width, height)).boxes
            shares = box.x1 / width, box.y1 / height, box.x2 / width, box.y2 / height
            # 1.5: of a thin box Kosmos-like grids may move an end by its rules for one cell
            assert shares == pytest.approx(corners, abs=1.5 * dialect.quantum)


def test_several_boxes_and_points_of_one_sentence_are_read_in_their_order_and_place(dialect):
    if not writes_boxes(dialect):
        return
    boxes = [Box(10, 10, 30, 30, "cat"), Box(50, 20, 90, 60, "dog"), Box(5, 60, 20, 95)]
    text = dialect.render("First {box:1}, then {box:0} and {box:2}.", boxes, (100, 100))
    parsed = dialect.decode(text, (100, 100))
    assert len(parsed.boxes) == 3 and not parsed.errors
    for got, true in zip(parsed.boxes, (boxes[1], boxes[0], boxes[2]), strict=True):
        assert got.iou(true) > 0.6
    ends = [place for span in parsed.spans for place in span]
    assert ends == sorted(ends)
    for k, (start, end) in enumerate(parsed.spans):
        others = dialect.decode(text[:start] + text[end:], (100, 100)).boxes
        assert [box.xyxy for box in others] == [box.xyxy for box in parsed.boxes[:k] + parsed.boxes[k + 1 :]]
    assert text.startswith("First ") and ", then " in text and " and " in text and text.endswith(".")


@given(
    text=st.lists(st.sampled_from([*HOSTILE, *'0123456789.,;:[](){}<>/|" -+eE', "box", "nan", "ref>"])).map("".join)
    | st.text()
)
@settings(max_examples=200, deadline=None)
def test_no_text_makes_decoding_fail(text):
    for name in NAMES:
        parsed = DIALECTS.get(name)().decode(text, (640, 480))
        assert set(parsed.errors) <= set(ERROR_KINDS) and all(count > 0 for count in parsed.errors.values())
        assert len(parsed.spans) == len(parsed.boxes)
        for box in parsed.boxes:
            assert 0 <= box.x1 < box.x2 <= 640 and 0 <= box.y1 < box.y2 <= 480


def test_decoding_time_grows_with_the_text_and_not_faster(dialect):
    def seconds(text: str) -> float:
        times = []
        for _ in range(3):
            started = time.process_time()  # of this process, so that a busy machine does not fail the test
            dialect.decode(text, (640, 480))
            times.append(time.process_time() - started)
        return min(times)

    for unit in HOSTILE:
        short, long = (unit * (n // len(unit)) for n in (10_000, 40_000))
        assert seconds(long) <= 8 * seconds(short) + 0.02, repr(unit)  # a quadratic reader needs 16 times as long


@pytest.mark.parametrize(
    "text", ["9" * 10**6, "[" + "9" * 10**6 + ", 1, 2, 3]", '{"bbox_2d": [1, 2, 3, ' + "9" * 10**6 + "]}"]
)
def test_a_million_digits_are_no_number(text, dialect):
    started = time.process_time()
    parsed = dialect.decode(text, (640, 480))
    assert not parsed.boxes and not parsed.points and time.process_time() - started < 2


@pytest.mark.parametrize(
    "box", [(0, 0, NAN, 1), (0, 0, INF, 1), (1, 2, 3), (5, 5, 5, 9), (9, 9, 5, 5), (101, 5, 110, 9)]
)
def test_what_is_no_box_cannot_be_written(box, dialect):
    with pytest.raises(DialectError):
        dialect.encode(box, (100, 100))


@pytest.mark.parametrize("point", [(0, NAN), (INF, 1), (1, 2, 3), (5,), (-1, 5), (5, 101)])
def test_what_is_no_point_of_the_picture_cannot_be_written(point, dialect):
    with pytest.raises(DialectError):
        dialect.encode_point(point, (100, 100))


@pytest.mark.parametrize(
    "corners", [[], [(1, 1), (9, 9)], [(1, 1), (9, 9), (NAN, 1)], [(1, 1), (9, 9), (500, 1), (3, 3)]]
)
def test_what_is_no_outline_cannot_be_written(corners, dialect):
    with pytest.raises(DialectError):
        dialect.encode_polygon(corners, (100, 100))


def test_an_outline_comes_back_where_the_family_has_a_spelling_for_it(dialect):
    quad = [(10, 10), (90, 20), (80, 70), (15, 60)]
    try:
        text = dialect.encode_polygon(quad, (100, 100))
    except DialectError as error:
        assert dialect.name in str(error)
        return
    parsed = dialect.decode(text, (100, 100))
    assert len(parsed.polygons) == 1 and not parsed.errors and not parsed.boxes
    for got, true in zip(parsed.polygons[0], quad, strict=True):
        assert got == pytest.approx(true, abs=100 * dialect.quantum)


def test_every_dialect_says_its_name_its_source_and_its_resolution(dialect):
    assert DIALECTS.get(dialect.name) is type(dialect)
    assert 0 < dialect.quantum < 0.05 and len(type(dialect).__doc__) > 100
    assert dialect.frame((200, 100)) == (0, 0, 200, 100)
    if writes_boxes(dialect):
        text = dialect.encode(Box(20, 20, 60, 60, "cat"), (100, 100))
        marks = [mark if isinstance(mark, re.Pattern) else re.compile(re.escape(mark)) for mark in dialect.marks]
        for tag in re.findall(r"<[^<>]+>", text):  # a tag that decoding an answer drops would make its boxes unreadable
            assert any(mark.fullmatch(tag) for mark in marks), tag


def test_no_family_was_pretrained_with_two_dialects():
    counts = Counter(family for name in NAMES for family in DIALECTS.get(name).families)
    assert not [family for family, count in counts.items() if count > 1]
    for name in NAMES:
        assert all(dialect_of(family) == name for family in DIALECTS.get(name).families)
    assert dialect_of("mllama") == dialect_of("no such family") == "percent"


def test_placeholder_without_a_box_or_a_point_is_refused(dialect):
    if not (writes_boxes(dialect) and reads_points(dialect)):
        return
    text = dialect.render("{point:0} in {box:0}, {box} {0}", [(10, 10, 30, 30)], (100, 100), [(20, 30)])
    parsed = dialect.decode(text, (100, 100))
    assert len(parsed.boxes) == len(parsed.points) == 1 and text.endswith(", {box} {0}")
    for lost in ("{point:1}", "{box:1}"):
        with pytest.raises(DialectError, match=re.escape(lost)):
            dialect.render(lost, [(0, 0, 10, 10)], (100, 100), [(20, 30)])
    with pytest.raises(DialectError, match="has no point"):
        dialect.render("{point:0}", [(0, 0, 10, 10)], (100, 100))


def test_unknown_dialect_offers_the_nearest_name():
    with pytest.raises(ConfigError, match="percent"):
        get_dialect("percents", PROCESSORS["resizes plainly"])


def test_a_dialect_without_a_processor_counts_in_the_picture(dialect):
    assert dialect.geometry == Geometry()
