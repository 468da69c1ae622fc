"""PaliGemma, Florence-2, Kosmos-2 and Molmo: their own spelling, read as their own code reads it."""

import re

import numpy as np
import pytest
import torch
import transformers
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers.models.kosmos2.processing_kosmos2 import coordinate_to_patch_index

from lynx_moe.errors import DialectError
from lynx_moe.families.dialects import (
    Florence2Dialect,
    Geometry,
    Kosmos2Dialect,
    Molmo2Dialect,
    MolmoDialect,
    PaliGemmaDialect,
    dialect_of,
)
from lynx_moe.grounding import Box
from tests.tiny import tiny_tokenizer

FLORENCE_TASKS = {"description_with_bboxes", "phrase_grounding", "description_with_polygons", "bboxes"}


@pytest.fixture(scope="module")
def florence():
    images = transformers.CLIPImageProcessorPil()
    images.image_seq_length = 4
    config = {task: {} for task in FLORENCE_TASKS | {"description_with_bboxes_or_polygons"}}
    return transformers.Florence2Processor(images, tiny_tokenizer(), post_processor_config=config)


@pytest.fixture(scope="module")
def kosmos():
    return transformers.Kosmos2Processor(transformers.CLIPImageProcessorPil(), tiny_tokenizer())


sizes = st.tuples(st.integers(1, 4000), st.integers(1, 4000))
names = st.text(alphabet="abcdefgh kmn", min_size=1, max_size=12).map(str.strip).filter(bool)


def corners(most: int):
    """Two different numbers up to `most`, in order."""
    return st.tuples(st.integers(0, most), st.integers(0, most)).filter(lambda p: p[0] < p[1])


def random_box(draw, size):
    x, y = (np.sort(draw.random(2)) * side for side in size)
    return Box(x[0], y[0], x[1], y[1])


# PaliGemma -----------------------------------------------------------------------------------------------------------


def test_paligemma_writes_what_big_vision_writes():
    draw, size = np.random.default_rng(0), (333, 517)
    for _ in range(200):
        box = random_box(draw, size)
        shares = np.array([box.y1 / size[1], box.x1 / size[0], box.y2 / size[1], box.x2 / size[0]])
        bins = np.clip(np.round(shares * 1023), 0, 1023).astype(int)  # its `refcoco_mask2str`
        if bins[0] < bins[2] and bins[1] < bins[3]:  # thinner ones are widened by us alone
            assert PaliGemmaDialect().encode(box, size) == "".join(f"<loc{k:04d}>" for k in bins)


@given(
    size=sizes,
    rows=corners(1023),
    columns=corners(1023),
    name=names,
    codes=st.lists(st.integers(0, 127), min_size=16, max_size=16),
)
@settings(max_examples=100, deadline=None)
def test_paligemma_reads_what_big_vision_reads(size, rows, columns, name, codes):
    four = rows[0], columns[0], rows[1], columns[1]
    seg = "".join(f"<seg{k:03d}>" for k in codes)
    text = "".join(f"<loc{k:04d}>" for k in four) + seg + " " + name
    parsed = PaliGemmaDialect().decode(text, size)
    y1, x1, y2, x2 = np.array(four) / 1023  # its evaluator: "Back to [0.0 ... 1.0]"
    expected = np.array([x1, y1, x2, y2]) * np.array([*size, *size])
    assert np.allclose(parsed.boxes[0].xyxy, expected) and not parsed.errors
    assert parsed.boxes[0].label == name and parsed.mask_codes == [tuple(codes)]


def test_paligemma_lists_are_read_with_names_and_sentences_without():
    box = "<loc0000><loc0000><loc0512><loc1023>"
    read = PaliGemmaDialect().decode(f"{box} cat ; {box} small dog ; {box}", (100, 100))
    assert [b.label for b in read.boxes] == ["cat", "small dog", ""] and not read.errors
    loose = PaliGemmaDialect().decode(f"{box} cat and {box} dog; red\n{box} bird ;", (100, 100))
    assert [b.label for b in loose.boxes] == ["", "", "bird"]
    told = PaliGemmaDialect().decode(f"It is at {box} in the picture.", (100, 100))
    assert [b.label for b in told.boxes] == [""] and told.mask_codes == [()]


@pytest.mark.parametrize(
    ("text", "errors"),
    [
        ("<loc0001><loc0002><loc0003>", {"unparseable": 1}),
        ("<loc0001><loc0002><loc0003><loc0004><loc0005>", {"unparseable": 1}),
        ("<loc0001><loc0002><loc0003> <loc0004>", {"unparseable": 2}),
        ("<loc0001><loc1024>", {"out_of_range": 1}),
        ("<loc0001><loc0002><loc0003><loc1024>", {"out_of_range": 1}),
        ("<loc0003><loc0002><loc0001><loc0004>", {"inverted": 1}),
        ("<loc0001><loc0002><loc0003><loc00", {"unparseable": 2}),
        ("<loc0001><loc0002><loc0003><loc٠٠٠٤>", {"unparseable": 2}),
        ("<loc0001><loc0002><loc0003><loc0004><seg001><seg002>", {"unparseable": 1}),
        ("<loc0001><loc0002><loc0003><loc0004>" + "<seg128>" * 16, {"unparseable": 1}),
    ],
)
def test_what_is_no_paligemma_box_is_counted(text, errors):
    parsed = PaliGemmaDialect().decode(text, (100, 100))
    assert parsed.errors == errors and not parsed.points


# Florence-2 ----------------------------------------------------------------------------------------------------------


def test_florence_writes_what_its_post_processor_quantises(florence):
    draw, size = np.random.default_rng(0), (333, 517)
    for _ in range(200):
        box = random_box(draw, size)
        bins = florence.post_processor.quantize(torch.tensor([box.xyxy], dtype=torch.float64), size)[0].tolist()
        assert Florence2Dialect().encode(box, size) == "".join(f"<loc_{k}>" for k in bins)


@given(
    size=st.tuples(st.integers(50, 4000), st.integers(50, 4000)),
    found=st.lists(
        st.tuples(names, st.lists(st.tuples(corners(999), corners(999)), min_size=1, max_size=3)),
        min_size=1,
        max_size=4,
    ),
)
@settings(max_examples=100, deadline=None)
def test_florence_boxes_and_names_are_those_of_transformers(florence, size, found):
    text = "".join(
        name + "".join(f"<loc_{x[0]}><loc_{y[0]}><loc_{x[1]}><loc_{y[1]}>" for x, y in boxes) for name, boxes in found
    )
    theirs = florence.post_process_generation(text=text, task="<OD>", image_size=size)["<OD>"]
    ours = Florence2Dialect().decode(text, size)
    assert not ours.errors and [box.label for box in ours.boxes] == theirs["labels"]
    # They cut off what is behind the point.
    assert len(ours.boxes) == len(theirs["bboxes"])
    for box, whole in zip(ours.boxes, theirs["bboxes"], strict=True):
        assert np.all(np.abs(np.array(box.xyxy) - whole - 0.5) <= 0.5 + 1e-3)


@given(
    size=st.tuples(st.integers(50, 4000), st.integers(50, 4000)),
    outlines=st.lists(
        st.lists(st.tuples(st.integers(0, 999), st.integers(0, 999)), min_size=3, max_size=6), min_size=1, max_size=3
    ),
)
@settings(max_examples=100, deadline=None)
def test_florence_outlines_are_those_of_transformers(florence, size, outlines):
    runs = ["".join(f"<loc_{x}><loc_{y}>" for x, y in outline) for outline in outlines]
    text = f"cat<poly>{'<sep>'.join(runs)}</poly>"
    task = "<OPEN_VOCABULARY_DETECTION>"
    theirs = florence.post_process_generation(text=text, task=task, image_size=size)[task]
    ours = Florence2Dialect().decode(text, size)
    assert not ours.errors and not ours.boxes
    for outline, whole in zip(ours.polygons, theirs["polygons"][0], strict=True):
        assert np.all(np.abs(np.array(outline).ravel() - whole - 0.5) <= 0.5 + 1e-3)


def test_florence_outline_comes_back_within_half_a_bin():
    size, outline = (640, 480), [(10, 20), (600, 40), (320, 470), (0, 480)]
    text = Florence2Dialect().encode_polygon(outline, size)
    parsed = Florence2Dialect().decode(f"cat{text}", size)
    assert np.allclose(parsed.polygons, [outline], atol=640 / 1000 / 2 + 1e-9) and not parsed.errors
    for broken in ([(0, 0), (1, 1)], [(0, 0), (1, 1), (641, 0)]):
        with pytest.raises(DialectError):
            Florence2Dialect().encode_polygon(broken, size)


def test_florence_box_within_one_bin_keeps_an_area():
    box = Box(100.2, 100.2, 100.4, 100.4)
    text = Florence2Dialect().encode(box, (1000, 1000))
    assert text == "<loc_100>" * 4
    back = Florence2Dialect().decode(text, (1000, 1000)).boxes[0]
    assert back.area > 0 and Florence2Dialect().encode(back, (1000, 1000)) == text


@pytest.mark.parametrize(
    ("text", "errors"),
    [
        ("a<loc_1><loc_2><loc_3>", {"unparseable": 1}),
        ("a<loc_1><loc_2><loc_3><loc_", {"unparseable": 2}),
        ("a<loc_1><loc_2><loc_3><loc_1000>", {"out_of_range": 1}),
        ("a<loc_1><loc_1000>", {"out_of_range": 1}),
        ("a<loc_3><loc_2><loc_1><loc_4>", {"inverted": 1}),
        ("<poly><loc_1><loc_2><loc_3><loc_4></poly>", {"unparseable": 1}),
        ("<poly><loc_1><loc_2><loc_3><loc_4><loc_5><loc_6>", {"unparseable": 1}),
        ("<poly></poly></poly><poly><poly>", {"unparseable": 4}),
        ("<poly><loc_1><loc_2><loc_3><loc_4><loc_5><loc_1000></poly>", {"out_of_range": 1}),
    ],
)
def test_what_is_no_florence_box_or_outline_is_counted(text, errors):
    parsed = Florence2Dialect().decode(text, (100, 100))
    assert parsed.errors == errors and not parsed.boxes and not parsed.polygons


def test_a_florence_box_in_a_sentence_has_no_name():
    box = Florence2Dialect().encode((0, 0, 50, 50), (100, 100))
    assert Florence2Dialect().decode(f"The cat is at {box}.", (100, 100)).boxes[0].label == ""


# Kosmos-2 ------------------------------------------------------------------------------------------------------------


@given(size=sizes, a=st.floats(0, 1), b=st.floats(0, 1), c=st.floats(0, 1), d=st.floats(0, 1))
@settings(max_examples=200, deadline=None)
def test_kosmos_writes_the_cells_that_transformers_writes(kosmos, size, a, b, c, d):
    (x1, x2), (y1, y2) = sorted((a, b)), sorted((c, d))
    shares = x1, y1, x2, y2
    # Within a billionth of a cell of the grid we round to it; theirs does not.
    assume(x2 - x1 > 1e-6 and y2 - y1 > 1e-6 and all(abs(v * 32 - round(v * 32)) > 1e-7 for v in shares))
    text = Kosmos2Dialect().encode(Box(x1 * size[0], y1 * size[1], x2 * size[0], y2 * size[1], "a cat"), size)
    theirs = kosmos._insert_patch_index_tokens("<phrase>a cat</phrase>", [shares])
    assert text == theirs.replace(" <patch", "<patch").replace("> </object>", "></object>").replace(
        "> <patch", "><patch"
    )


def test_kosmos_corners_on_the_grid_stay_on_it():
    for first in range(32):
        for last in range(first + 1, 33):
            shares = first / 32, first / 32, last / 32, last / 32
            cells = coordinate_to_patch_index(shares, 32)
            text = Kosmos2Dialect().encode([v * 333 for v in shares], (333, 333))
            assert text == "<object>" + "".join(f"<patch_index_{cell:04d}>" for cell in cells) + "</object>"


@given(
    found=st.lists(
        st.tuples(names, st.lists(st.tuples(st.integers(0, 1023), st.integers(0, 1023)), min_size=1, max_size=3)),
        max_size=4,
    )
)
@settings(max_examples=200, deadline=None)
def test_kosmos_boxes_and_phrases_are_those_of_transformers(kosmos, found):
    def in_order(pair):
        return pair[0] // 32 <= pair[1] // 32 and pair[0] % 32 <= pair[1] % 32

    found = [(name, pairs) for name, every in found if (pairs := [pair for pair in every if in_order(pair)])]
    text = "<grounding>An image of"
    for name, pairs in found:
        cells = "</delimiter_of_multi_objects/>".join(f"<patch_index_{a:04d}><patch_index_{b:04d}>" for a, b in pairs)
        text += f"<phrase> {name}</phrase><object>{cells}</object> and"
    _, theirs = kosmos.post_process_generation(text)
    ours = Kosmos2Dialect().decode(text, (640, 480))
    expected = [(name, box) for name, _, boxes in theirs for box in boxes]
    assert not ours.errors and [box.label for box in ours.boxes] == [name for name, _ in expected]
    for box, (_, shares) in zip(ours.boxes, expected, strict=True):
        assert np.allclose(box.xyxy, np.array(shares) * (640, 480, 640, 480))


@pytest.mark.parametrize(
    ("text", "errors"),
    [
        ("<object><patch_index_0001></object>", {"unparseable": 2}),
        ("<patch_index_0001><patch_index_0002>", {"unparseable": 2}),
        ("<patch_index_1024>", {"out_of_range": 1}),
        ("<object><patch_index_0001><patch_index_1024></object>", {"out_of_range": 1}),
        ("<object><patch_index_0002><patch_index_0001></object>", {"inverted": 1}),
        ("<object><patch_index_0100><patch_index_0001></object>", {"inverted": 1}),
        ("<object><patch_index_0001><patch_index_0002>", {"unparseable": 3}),
    ],
)
def test_what_is_no_kosmos_box_is_counted(text, errors):
    parsed = Kosmos2Dialect().decode(text, (100, 100))
    assert parsed.errors == errors and not parsed.boxes and not parsed.points


# Molmo ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", [MolmoDialect(), Molmo2Dialect()], ids=lambda d: d.name)
def test_molmo_points_come_back_and_boxes_are_refused_with_a_way_out(dialect):
    size, draw = (640, 480), np.random.default_rng(0)
    for point in draw.random((100, 2)) * size:
        parsed = dialect.decode(f"The cat: {dialect.encode_point(point, size)}.", size)
        assert np.allclose(parsed.points, [point], atol=0.0005 * 640 + 1e-9) and not parsed.errors and not parsed.boxes
    for refused in (lambda: dialect.encode((0, 0, 5, 5), size), lambda: dialect.grammar(size)):
        with pytest.raises(DialectError, match="Point to"):
            refused()


MOLMO = [
    '<point x="63.5" y="44.5" alt="Mt Rainier">Mt Rainier</point>',
    '<points x1="9.1" y1="16.0" x2="17.3" y2="60.0" alt="boats">the boats</points> shows a total of 2.',
]


@pytest.mark.parametrize("text", MOLMO)
def test_molmo_points_are_those_of_its_published_reader(text):
    pattern = re.compile(r'x(\d*)="\s*(\d+(?:\.\d+)?)\s*"\s+y\1="\s*(\d+(?:\.\d+)?)\s*"')
    expected = [(float(m[2]) / 100 * 640, float(m[3]) / 100 * 480) for m in pattern.finditer(text)]
    parsed = MolmoDialect().decode(text, (640, 480))
    assert expected and np.allclose(parsed.points, expected) and not parsed.errors


MOLMO2 = [
    'Counting the <points coords="1 1 073 160 2 173 600 3 258 1000" alt="boats">the boats</points> shows a total of 3.',
    '<points coords="1 1 555 169;2 3 649 154 4 709 162">cats</points>',
    '<points coords="1 1 555 169\t2 3 649 154">cats</points>',
]


@pytest.mark.parametrize("text", MOLMO2)
def test_molmo2_points_are_those_of_its_published_reader(text):
    expected = []
    for coords in re.finditer(r"<(?:points|tracks).*? coords=\"([0-9\t:;, .]+)\"/?>", text.replace(' alt="boats"', "")):
        for group in re.finditer(r"(?:^|\t|:|,|;)([0-9\.]+) ([0-9\. ]+)", coords[1]):
            for point in re.finditer(r"([0-9]+) ([0-9]{3,4}) ([0-9]{3,4})", group[2]):
                expected.append((int(point[2]) / 1000 * 640, int(point[3]) / 1000 * 480))
    parsed = Molmo2Dialect().decode(text, (640, 480))
    assert expected and np.allclose(parsed.points, expected) and not parsed.errors


@pytest.mark.parametrize(
    ("dialect", "text", "errors"),
    [
        (MolmoDialect(), '<point x="101" y="5.0" alt="a">a</point>', {"out_of_range": 1}),
        (MolmoDialect(), '<point x="10" alt="a">a</point>', {"unparseable": 1}),
        (MolmoDialect(), '<points x1="10" y1="5" x2="7" alt="a">a</points>', {"unparseable": 1}),
        (MolmoDialect(), '<point x="10" y="5"', {"unparseable": 1}),
        (MolmoDialect(), MOLMO2[1], {"unparseable": 1}),
        (Molmo2Dialect(), MOLMO[0], {"unparseable": 1}),
        (Molmo2Dialect(), '<points coords="1 1 1001 200">a</points>', {"out_of_range": 1}),
        (Molmo2Dialect(), '<points coords="1 1 73 160">a</points>', {"unparseable": 1}),
    ],
)
def test_what_is_no_point_is_counted(dialect, text, errors):
    read = dialect.decode(text, (100, 100))
    assert read.errors == errors and len(read.points) == ("x1=" in text and "x2=" in text)


# All of them ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", [PaliGemmaDialect(), Florence2Dialect(), Kosmos2Dialect()], ids=lambda d: d.name)
def test_labels_are_written_and_come_back_or_are_refused(dialect):
    text = dialect.encode(Box(10, 10, 90, 90, "small cat"), (100, 100))
    assert "small cat" in text and [box.label for box in dialect.decode(text, (100, 100)).boxes] == ["small cat"]
    with pytest.raises(DialectError, match="label"):
        dialect.encode(Box(10, 10, 90, 90, "<loc>"), (100, 100))


@pytest.mark.parametrize("dialect", [PaliGemmaDialect, Florence2Dialect, Kosmos2Dialect])
def test_the_frame_is_the_padded_square_where_the_processor_pads(dialect):
    padded = dialect(Geometry(pad_square=True))
    back = padded.decode(padded.encode((20, 10, 180, 90), (200, 100)), (200, 100)).boxes[0]
    assert np.allclose(back.xyxy, (20, 10, 180, 90), atol=padded.quantum * 200)
    # The same text is somewhere else on a picture that is not padded.
    assert dialect().decode(padded.encode((20, 10, 180, 90), (200, 100)), (200, 100)).boxes[0].y1 > 20


@pytest.mark.parametrize("dialect", [PaliGemmaDialect(), Florence2Dialect(), Kosmos2Dialect()], ids=lambda d: d.name)
def test_spans_are_the_tokens_of_the_numbers(dialect):
    boxes = [(10, 10, 50, 50), (20, 30, 90, 90)]
    text = dialect.render("One at {box:0}, one at {box:1}.", boxes, (100, 100))
    for (begin, end), box in zip(dialect.decode(text, (100, 100)).spans, boxes, strict=True):
        assert text[begin:end] == dialect.encode(box, (100, 100)) and dialect.coordinates.search(text, begin, end)


@pytest.mark.parametrize("dialect", [PaliGemmaDialect(), Florence2Dialect(), Kosmos2Dialect()], ids=lambda d: d.name)
def test_a_point_comes_back_beside_a_box(dialect):
    size, draw = (640, 480), np.random.default_rng(0)
    for point in draw.random((50, 2)) * size:
        text = dialect.render("Is {point:0} in {box:0}?", [(1, 2, 300, 400)], size, [point])
        parsed = dialect.decode(text, size)
        assert len(parsed.boxes) == 1 and not parsed.errors
        assert np.allclose(parsed.points, [point], atol=dialect.quantum / 2 * 640 + 1e-9)


def test_families_find_their_dialects():
    families = {"paligemma": "paligemma", "florence2": "florence2", "kosmos-2": "kosmos2", "molmo2": "molmo2"}
    assert {family: dialect_of(family) for family in families} == families
    for family in families:
        assert family in transformers.models.auto.configuration_auto.CONFIG_MAPPING
