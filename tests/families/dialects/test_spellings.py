"""Each family's own spelling: its published formula as the oracle, its example answers, and what it does not mean."""

import json
import re
from collections import Counter

import numpy as np
import pytest

from lynx_moe.errors import DialectError
from lynx_moe.families.dialects import DIALECTS, Geometry, PercentDialect
from lynx_moe.families.dialects.smart_resize import SmartResize
from lynx_moe.grounding import Box

THE_PICTURE = (1000, 1000)


def read(name: str, text: str, size=THE_PICTURE):
    return DIALECTS.get(name)().decode(text, size)


def boxes(name: str, text: str, size=THE_PICTURE):
    return [box.xyxy for box in read(name, text, size).boxes]


# Published formulas: (x, width) or (y, height) in pixels -> the number in the text, and back.
SWIFT = {  # ms-swift, `Template.normalize_bbox` with norm_bbox = 'norm1000'
    name: (lambda x, side: str(int(round(x / side * 1000))), lambda n, side: int(n) / 1000 * side)
    for name in ("qwen_vl", "internvl", "qwen3_vl")
}
FORMULAS = SWIFT | {
    # zai-org/GLM-V, notes of the grounding skill
    "glm4v": (lambda x, side: str(round(x / side * 1000)), lambda n, side: int(n) * side / 1000),
    # apple/ml-ferret, `int(VOCAB_IMAGE_W * x / img_width)`
    "ferret": (lambda x, side: str(int(1000 * x / side)), lambda n, side: int(n) * side / 1000),
    # shikras/shikra, `PlainBoxFormatter` with precision=3
    "shikra": (lambda x, side: f"{x / side:.3f}", lambda n, side: float(n) * side),
    # deepseek-ai/DeepSeek-VL2, `parse_ref_bbox` (how it is read; rounding to the nearest is ours)
    "deepseek_vl2": (lambda x, side: str(round(x / side * 999)), lambda n, side: int(n) / 999 * side),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_numbers_are_those_of_the_published_formula_both_ways(name):
    write, back = FORMULAS[name]
    dialect, draw = DIALECTS.get(name)(), np.random.default_rng(0)
    for _ in range(300):
        width, height = draw.integers(40, 3000, 2).tolist()
        x1, x2 = np.sort(draw.choice(width + 1, 2, replace=False)).tolist()
        y1, y2 = np.sort(draw.choice(height + 1, 2, replace=False)).tolist()
        expected = [write(x1, width), write(y1, height), write(x2, width), write(y2, height)]
        if expected[0] == expected[2] or expected[1] == expected[3]:
            continue  # the formulas write empty boxes; the dialects never do
        text = dialect.encode((x1, y1, x2, y2), (width, height))
        assert re.findall(r"[0-9.]+", text.removeprefix('{"bbox_2d"')) == expected
        (box,) = dialect.decode(text, (width, height)).boxes
        sides = (width, height) * 2
        assert box.xyxy == pytest.approx([back(n, side) for n, side in zip(expected, sides, strict=True)])


def test_shikras_square_is_the_one_of_its_own_code():
    def expand2square(box, width, height):  # shikras/shikra, `box_xyxy_expand2square` and `norm_box_xyxy`
        if width > height:
            box = box[0], box[1] + (width - height) // 2, box[2], box[3] + (width - height) // 2
        elif height > width:
            box = box[0] + (height - width) // 2, box[1], box[2] + (height - width) // 2, box[3]
        return [value / max(width, height) for value in box]

    dialect = DIALECTS.get("shikra")(Geometry(pad_square=True))
    for width, height in ((200, 100), (101, 300), (333, 333)):
        box = (10, 20, 90, 80)
        expected = ",".join(f"{value:.3f}" for value in expand2square(box, width, height))
        assert dialect.encode(box, (width, height)) == f"[{expected}]"


def test_absolute_pixels_are_the_boxes_of_the_resized_picture():
    dialect, draw = DIALECTS.get("qwen2_5_vl")(), np.random.default_rng(0)
    for width, height in draw.integers(30, 4000, (100, 2)).tolist():
        new_width, new_height = SmartResize()((width, height))
        assert new_width % 28 == new_height % 28 == 0
        box = (0, 0, width / 2, height)
        fields = json.loads(dialect.encode(box, (width, height)))
        assert fields["bbox_2d"] == [0, 0, round(new_width / 2), new_height]


@pytest.mark.parametrize(
    ("name", "label", "text"),
    [
        ("percent", "", "[10, 20, 30, 40]"),
        ("llava", "", "[0.10, 0.20, 0.30, 0.40]"),
        ("shikra", "", "[0.100,0.200,0.300,0.400]"),
        ("ferret", "", "[100, 200, 300, 400]"),
        ("qwen_vl", "cat", "<ref>cat</ref><box>(100,200),(300,400)</box>"),
        ("qwen2_vl", "cat", "<|object_ref_start|>cat<|object_ref_end|><|box_start|>(100,200),(300,400)<|box_end|>"),
        ("qwen3_vl", "cat", '{"bbox_2d": [100, 200, 300, 400], "label": "cat"}'),
        ("internvl", "cat", "<ref>cat</ref><box>[[100, 200, 300, 400]]</box>"),
        ("deepseek_vl2", "cat", "<|ref|>cat<|/ref|><|det|>[[100, 200, 300, 400]]<|/det|>"),
        ("kimi_vl", "cat", '{"bbox_2d": [0.100, 0.200, 0.300, 0.400], "label": "cat"}'),
        ("glm4v", "", "<|begin_of_box|>[[100,200,300,400]]<|end_of_box|>"),
        ("gemma", "cat", '{"box_2d": [200, 100, 400, 300], "label": "cat"}'),
        ("ovis2_5", "cat", "<ref>cat</ref><box>(0.100,0.200),(0.300,0.400)</box>"),
    ],
)
def test_spelling_is_the_familys_letter_for_letter(name, label, text):
    assert DIALECTS.get(name)().encode(Box(100, 200, 300, 400, "cat"), THE_PICTURE) == text
    (box,) = read(name, f"It is {text} here.").boxes
    assert box.xyxy == pytest.approx((100, 200, 300, 400), abs=0.7) and box.label == label


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("percent", "[50, 25]"),
        ("llava", "[0.50, 0.25]"),
        ("shikra", "[0.500,0.250]"),
        ("ferret", "[500, 250]"),
        ("kimi_vl", '{"point_2d": [0.500, 0.250]}'),
        ("internvl", "<box>[[500, 250]]</box>"),
        ("deepseek_vl2", "<|det|>[[500, 250]]<|/det|>"),
        ("qwen_vl", "<box>(500,250)</box>"),
        ("qwen2_vl", "<|box_start|>(500,250)<|box_end|>"),
        ("qwen3_vl", '{"point_2d": [500, 250]}'),
        ("glm4v", "<|begin_of_box|>[[500,250]]<|end_of_box|>"),
        ("gemma", '{"point": [250, 500]}'),
        ("ovis2_5", "<point>(0.500,0.250)</point>"),
    ],
)
def test_point_is_spelled_and_read_in_the_same_frame(name, text):
    assert DIALECTS.get(name)().encode_point((500, 250), THE_PICTURE) == text
    assert read(name, f"At {text}.").points == [pytest.approx((500, 250), abs=0.6)]


# --- answers as the models give them -------------------------------------------------------------------------------


def test_the_papers_own_example_reads_back():
    text = "Step 1: Find the man at [0, 13, 29, 100]. Step 2: Check the object he is looking at [21, 40, 100, 100]."
    parsed = PercentDialect().decode(text, (100, 100))
    assert [box.xyxy for box in parsed.boxes] == [pytest.approx(b) for b in ((0, 13, 29, 100), (21, 40, 100, 100))]
    assert [text[a:b] for a, b in parsed.spans] == ["[0, 13, 29, 100]", "[21, 40, 100, 100]"]
    assert not parsed.errors


def test_a_fenced_list_of_objects_is_read_object_by_object():
    text = """```json
[
	{"bbox_2d": [100, 200, 300, 400], "label": "cat"},
	{"bbox_2d": [500, 500, 600, 700], "label": "a \\"dog\\" {x}", "sub_label": null, "score": 0.5}
]
```"""
    text = text.replace("{x}", "\\u007bx\\u007d")
    parsed = read("qwen3_vl", text)
    assert [(box.xyxy, box.label) for box in parsed.boxes] == [
        ((100, 200, 300, 400), "cat"), ((500, 500, 600, 700), 'a "dog" {x}')
    ]  # fmt: skip
    assert [json.loads(text[a:b])["bbox_2d"][0] for a, b in parsed.spans] == [100, 500] and not parsed.errors


def test_objects_inside_of_an_object_are_read():
    text = '{"objects": [{"bbox_2d": [1, 2, 3, 4]}, {"bbox_2d": [5, 6, 7, 8], "point_2d": [6, 7]}], "count": 2}'
    parsed = read("qwen3_vl", text)
    assert len(parsed.boxes) == 2 and parsed.points == [(6, 7)] and not parsed.errors


def test_an_answer_cut_anywhere_gives_its_whole_boxes_and_at_most_one_error():
    for name in ("qwen3_vl", "gemma", "internvl", "deepseek_vl2", "glm4v", "qwen_vl", "qwen2_vl", "ovis2_5"):
        dialect = DIALECTS.get(name)()
        places = [Box(10, 20, 300, 400, "cat"), Box(500, 500, 600, 700, "dog"), Box(0, 0, 77, 88, "ball")]
        text = "".join(dialect.encode(box, THE_PICTURE) for box in places)
        whole = dialect.decode(text, THE_PICTURE)
        assert len(whole.boxes) == 3
        for end in range(len(text) + 1):
            cut = dialect.decode(text[:end], THE_PICTURE)
            assert cut.boxes == whole.boxes[: len(cut.boxes)] and sum(cut.errors.values()) <= 1, text[:end]
            assert len(cut.boxes) >= sum(last <= end for _, last in whole.spans)


def test_several_boxes_of_one_name_all_get_it():
    for name, text in (
        ("deepseek_vl2", "<|ref|>cats<|/ref|><|det|>[[1, 2, 3, 4], [5, 6, 7, 8]]<|/det|>"),
        ("internvl", "<ref>cats</ref><box>[[1, 2, 3, 4], [5, 6, 7, 8]]</box>"),
        ("qwen_vl", "<ref>cats</ref><box>(1,2),(3,4)</box><box>(5,6),(7,8)</box>"),
        (
            "ovis2_5",
            "<ref>cats</ref>[\n<box>(0.001,0.002),(0.003,0.004)</box>,<box>(0.005,0.006),(0.007,0.008)</box> ]",
        ),
    ):
        assert [box.label for box in read(name, text).boxes] == ["cats", "cats"], name
    far = "<ref>cats</ref> were here, <box>(1,2),(3,4)</box> is none <ref>dog</ref><box>(5,6),(7,8)</box>"
    assert [box.label for box in read("qwen_vl", far).boxes] == ["", "dog"]


def test_glms_answer_marks_may_hold_words():
    for style in ("[94,598,177,991]", "(94, 598, 177, 991)", "(94,598),(177,991)", "94,598,177,991"):
        assert boxes("glm4v", f"<|begin_of_box|>{style}<|end_of_box|>") == [(94, 598, 177, 991)]
    assert not read("glm4v", "<|begin_of_box|>x[3]<|end_of_box|>").errors
    assert not read("glm4v", "The answer is <|begin_of_box|>a red car<|end_of_box|>.").errors
    text = "The second bottle from the right is <|begin_of_box|>[[94,598,177,991]]<|end_of_box|>."
    assert boxes("glm4v", text) == [(94, 598, 177, 991)]


def test_shikras_group_holds_several_boxes_or_points():
    parsed = read("shikra", "two cats[0.100,0.100,0.200,0.200;0.5,0.5,0.9,0.9] looking at [0.2,0.3;0.4,0.5]")
    assert len(parsed.boxes) == 2 and len(parsed.points) == 2 and not parsed.errors


def test_quads_are_outlines_and_no_boxes():
    text = "<ref>sign</ref><quad>(10,10),(90,20),(80,70),(15,60)</quad>"
    parsed = read("qwen_vl", text)
    assert parsed.polygons == [[(10, 10), (90, 20), (80, 70), (15, 60)]] and not parsed.boxes and not parsed.errors
    assert read("qwen_vl", "<quad>(10,10),(90,20),(80,70),(15,1001)</quad>").errors == {"out_of_range": 1}
    assert read("qwen_vl", "<quad>(10,10),(90,20),(80,70)</quad>").errors == {"unparseable": 1}
    with pytest.raises(DialectError, match="5 corners"):
        DIALECTS.get("qwen_vl")().encode_polygon([(1, 1)] * 5, THE_PICTURE)


# --- what is refused ----------------------------------------------------------------------------------------------

REFUSED = {
    "percent": [
        ("[1, 2, 3]", "unparseable"), ("[1, 2, 3, 4, 5]", "unparseable"), ("[1, 2, 3, four]", "unparseable"),
        ("[1, 2, 3, 4", "unparseable"), ("[0.1, 0.2, 0.3, 0.4]", "unparseable"), ("[1, 2, 3, ١٢]", "unparseable"),
        (f"[1, 2, 3, {'9' * 5000}]", "unparseable"), ("[1, 2, 3, 101]", "out_of_range"),
        ("[-1, 2, 3, 10]", "out_of_range"), ("[30, 2, 3, 10]", "inverted"), ("[3, 10, 30, 10]", "inverted"),
        ("[101, 5]", "out_of_range"), ("[a, 5]", "unparseable"), ("[1e1, 5, 20, 30]", "unparseable"),
    ],
    "llava": [
        ("[10, 20, 30, 40]", "out_of_range"), ("[.1, .2, .3, .4]", "unparseable"), ("[nan, 0, 1, 1]", "unparseable"),
    ],
    "shikra": [("[100,200,300,400]", "out_of_range"), ("[0.1,0.2,0.3,0.4;0.5", "unparseable")],
    "ferret": [("[1, 2, 3, 1001]", "out_of_range"), ("[0.1, 0.2, 0.3, 0.4]", "unparseable")],
    "qwen_vl": [
        ("<box>(1,2),(3,1001)</box>", "out_of_range"), ("<box>(5,2),(3,9)</box>", "inverted"),
        ("<box>(0.1,0.2),(0.3,0.4)</box>", "unparseable"), ("<box>[[1, 2, 3, 4]]</box>", "unparseable"),
        ("<box>1,2,3,4</box>", "unparseable"), ("<box></box>", "unparseable"), ("(1,2),(3,4)", "unparseable"),
        ("<|box_start|>(1,2),(3,4)<|box_end|>", "unparseable"), ('{"bbox_2d": [1, 2, 3, 4]}', "unparseable"),
    ],
    "qwen2_vl": [
        ("<|box_start|>(1,2),(3,1000)<|box_end|>", "out_of_range"),
        ("<|box_start|>(1,2),(1000,4)<|box_end|>", "out_of_range"),
        ("<|box_start|>(-1,2),(10,4)<|box_end|>", "out_of_range"), ("<box>(1,2),(3,4)</box>", "unparseable"),
        ("[1, 2, 3, 4]", "unparseable"),
    ],
    "qwen2_5_vl": [
        ('{"bbox_2d": [1, 2, 3, 1037]}', "out_of_range"), ("[1, 2, 3, 4]", "unparseable"),
        ("<|box_start|>(1,2),(3,4)<|box_end|>", "unparseable"),
    ],
    "qwen3_vl": [
        ('{"bbox_2d": [1, 2, 3, 1001]}', "out_of_range"), ('{"bbox_2d": [5, 2, 3, 9]}', "inverted"),
        ('{"bbox_2d": [0.1, 0.2, 0.3, 0.4]}', "unparseable"), ('{"bbox_2d": ["1", 2, 3, 4]}', "unparseable"),
        ('{"bbox_2d": [1, 2, 3, 4], "bbox_2d": [5, 6, 7, 8]}', "unparseable"),
        ('{"bbox_2d": [1, 2, 3]}', "unparseable"),
        ('{"bbox_2d": [[1, 2, 3, 4]]}', "unparseable"), ('{"bbox_2d": [1, 2, 3, 4]', "unparseable"),
        ('{"bbox_2d": [1e1, 20, 30, 40]}', "unparseable"), ('{"bbox_2d": [NaN, 2, 3, 4]}', "unparseable"),
        ("{'bbox_2d': [1, 2, 3, 4]}", "unparseable"), ('{"bbox": [1, 2, 3, 4]}', "unparseable"),
        ('{"bbox_2d": [true, 2, 3, 4]}', "unparseable"), ('{"bbox_2d": {}}', "unparseable"), ('{"bb', "unparseable"),
        ('{"bbox_2d": ' + "[" * 3000 + "]" * 900 + "}", "unparseable"), ('{"point_2d": [1, 2, 3, 4]}', "unparseable"),
        ('{"bbox_2d": [1, 2, 3, 4], "label": "' + "a" * 9000 + '"}', "unparseable"),
    ],
    "kimi_vl": [('{"bbox_2d": [100, 200, 300, 400]}', "out_of_range")],
    "gemma": [('{"bbox_2d": [1, 2, 3, 4]}', "unparseable"), ('{"box_2d": [1, 2, 3, 1001]}', "out_of_range")],
    "internvl": [
        ("<box>[1, 2, 3, 4]</box>", "unparseable"), ("<box>[[0.1, 0.2, 0.3, 0.4]]</box>", "unparseable"),
        ("<box>[[1, 2, 3, 1001]]</box>", "out_of_range"), ("[[1, 2, 3, 4]]", "unparseable"),
        ("<box>(1,2),(3,4)</box>", "unparseable"),
    ],
    "deepseek_vl2": [("<|det|>[[1, 2, 3, 1000]]<|/det|>", "out_of_range")],
    "glm4v": [
        ("<|begin_of_box|>94,598<|end_of_box|>", "unparseable"),
        ("<|begin_of_box|>[94,598,177,9910]<|end_of_box|>", "out_of_range"),
        ("<|begin_of_box|>(94,598),(17,991)<|end_of_box|>", "inverted"),
    ],
    "ovis2_5": [
        ("<box>(0.1,0.2),(0.3,1.000)</box>", "out_of_range"), ("<box>(0.1,0.2)</box>", "unparseable"),
        ("<point>(0.1,0.2),(0.3,0.4)</point>", "unparseable"), ("<box>(100,200),(300,400)</box>", "out_of_range"),
    ],
}  # fmt: skip


@pytest.mark.parametrize(("name", "text", "kind"), [(name, *case) for name, cases in REFUSED.items() for case in cases])
def test_what_is_not_a_place_is_counted_by_its_kind_and_never_read(name, text, kind):
    parsed = read(name, f"So {text}")
    assert parsed.errors == Counter({kind: sum(parsed.errors.values())}) and parsed.errors[kind] >= 1
    assert not parsed.boxes and not parsed.points


def test_ordinary_text_is_no_error():
    for name in DIALECTS:
        for text in ("", "no box here", "1, 2, 3, 4", "It costs {5} (or so), see (a) and (b), x < y > z.", "Yes."):
            parsed = read(name, text)
            assert not parsed.boxes and not parsed.errors, (name, text)


def test_errors_of_one_answer_add_up():
    parsed = PercentDialect().decode("[1, b] [3, 4, 5, 999] [9, 9, 8, 8] [1, 1, 2, 2]", (100, 100))
    assert parsed.errors == {"unparseable": 1, "out_of_range": 1, "inverted": 1} and len(parsed.boxes) == 1


@pytest.mark.parametrize("name", ["percent", "llava", "shikra"])
def test_a_box_or_point_wholly_in_the_padding_is_out_of_range(name):
    dialect = DIALECTS.get(name)(Geometry(pad_square=True))
    unit = 100 if name == "percent" else 1
    box, point = ([value * unit for value in place] for place in ((0, 0, 0.5, 0.2), (0.5, 0.1)))
    if name == "percent":
        box, point = map(int, box), map(int, point)
    parsed = dialect.decode(f"[{','.join(map(str, box))}] [{','.join(map(str, point))}]", (200, 100))
    assert parsed.errors == {"out_of_range": 2} and not parsed.boxes and not parsed.points


def test_a_box_that_reaches_into_the_padding_ends_at_the_picture():
    box = PercentDialect(Geometry(pad_square=True)).decode("[0, 20, 50, 60]", (200, 100)).boxes[0]
    assert box.xyxy == (0, 0, 100, 70)


def test_placeholders_become_boxes_in_any_order():
    rects = [(0, 0, 10, 10), (20, 20, 40, 40)]
    text = PercentDialect().render("Found {box:1} and {box:0}, {box} {0}.", rects, (100, 100))
    assert text == "Found [20, 20, 40, 40] and [0, 0, 10, 10], {box} {0}."


def test_points_and_boxes_of_one_text_are_kept_apart():
    text = PercentDialect().render(
        "{point:0} or {point:1} in {box:0}?", [(0, 0, 10, 10)], (200, 100), [(20, 30), (200, 0)]
    )
    assert text == "[10, 30] or [100, 0] in [0, 0, 5, 10]?"
    parsed = PercentDialect().decode(text, (200, 100))
    assert parsed.points == [(20, 30), (200, 0)] and len(parsed.boxes) == 1
