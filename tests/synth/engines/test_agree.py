"""Matching two readings, and reading boxes and listings: small cases worked out by hand."""

import time
from collections import Counter

import pytest

from synth.engines.agree import Listed, agreed, match
from synth.engines.questions import same_answer
from synth.engines.reading import read_box, read_json, read_listing
from synth.scene import iou


def at(name, *box, colour=""):
    return Listed(name, box, colour)


def kept(first, second, unreadable=(), min_iou=0.5, min_score=0.5):
    rejected = Counter()
    return agreed(first, second, set(unreadable), min_iou, min_score, rejected), +rejected


def test_overlap_of_boxes():
    assert iou((0, 0, 10, 10), (0, 0, 10, 10)) == 1
    assert iou((0, 0, 10, 10), (0, 5, 10, 15)) == pytest.approx(50 / 150)
    assert iou((0, 0, 10, 10), (10, 0, 20, 10)) == 0
    assert iou((0, 0, 1e-200, 1e-200), (0, 0, 1e-200, 1e-200)) == 0  # a hostile file's: its area is no number


def test_the_best_overlaps_are_matched_first_and_only_under_one_name():
    first = [at("cat", 0, 0, 10, 10), at("cat", 2, 0, 12, 10), at("dog", 0, 0, 10, 10)]
    second = [at("cat", 2, 0, 12, 10), at("cat", 0, 0, 10, 10)]
    assert match(first, second, 0.5) == [(0, 1, 1.0), (1, 0, 1.0)]


def test_box_is_the_mean_and_score_is_overlap_times_share():
    objects, rejected = kept([at("cat", 0, 0, 10, 10)], [at("cat", 0, 0, 10, 8), at("owl", 20, 20, 30, 30)])
    assert [(o.name, o.box) for o in objects] == [("cat", (0, 0, 10, 9))]
    assert objects[0].confidence == pytest.approx(0.8 * 2 / 3)
    assert rejected == {"object: in one reading only": 1}


def test_of_a_name_with_a_refused_object_nothing_is_kept():
    """Neither "the cat" nor "how many cats" could be answered truly."""
    cat, other, dog = at("cat", 0, 0, 10, 10), at("cat", 50, 50, 60, 60), at("dog", 20, 0, 30, 10)
    objects, rejected = kept([cat, other, dog], [cat, dog])
    assert [o.name for o in objects] == ["dog"]
    assert rejected == {"object: in one reading only": 1, "object: same name as a refused one": 1}
    assert [o.name for o in kept([cat, dog], [cat, dog], unreadable=["dog"])[0]] == ["cat"]


def test_a_colour_is_kept_only_where_every_object_of_the_name_has_one_agreed():
    red, blue = at("cup", 0, 0, 10, 10, colour="red"), at("cup", 50, 0, 60, 10, colour="blue")
    assert [o.attributes for o in kept([red, blue], [red, blue])[0]] == [{"colour": "red"}, {"colour": "blue"}]
    unsure = at("cup", 50, 0, 60, 10)
    assert [o.attributes for o in kept([red, blue], [red, unsure])[0]] == [{}, {}]


def test_nothing_agrees_with_nothing():
    assert kept([], []) == ([], {})


@pytest.mark.parametrize(
    "text, value",
    [
        ('{"a": 1}', {"a": 1}), ('```json\n{"a": [1]}\n```', {"a": [1]}), ('Here: {"a": 1}. Done', {"a": 1}),
        ("[1, 2]", [1, 2]), ("no", None), ("{broken", None), ("", None), ('{"a": NaN}', {"a": None}),
    ],
)  # fmt: skip
def test_json_is_found_between_words(text, value):
    assert read_json(text) == value


@pytest.mark.parametrize(
    "text, listing",
    [
        ('{"objects": [{"name": "cat", "box": [1, 2, 3, 4], "colour": "red"}]}', [("cat", [1, 2, 3, 4], "red")]),
        ('[{"label": "cat", "bbox_2d": [1, 2, 3, 4]}]', [("cat", [1, 2, 3, 4], "")]),
        ("- cat: [1, 2, 3, 4]\n2. a dog at [5,6,7,8].", [("cat", [1, 2, 3, 4], ""), ("a dog", [5, 6, 7, 8], "")]),
        ('{"objects": []}', []),
        ('{"objects": [{"name": 3}]}', [("", None, "")]),
        ("cat [1, 2, 3]", None),
        ("I see nothing.", None),
        ('{"objects": ["cat"]}', None),
    ],
)
def test_listings_are_read_as_json_and_as_lines(text, listing):
    assert read_listing(text) == listing


@pytest.mark.parametrize(
    "written, coordinates, box",
    [
        ([0, 13, 29, 100], "percent", (0, 26, 116, 200)),
        ([0, 500, 1000, 1000], "permille", (0, 100, 400, 200)),
        ([10, 10, 100, 50], "pixels", (40, 40, 400, 200)),
        ([0, 0, 101, 50], "percent", None),
        ([-1, 0, 10, 50], "percent", None),
        ([30, 0, 10, 50], "percent", None),
        ([1, 2, 3], "percent", None),
        ([1, 2, 3, True], "percent", None),
        ([1, 2, 3, "4"], "percent", None),
        ([1, 2, float("inf"), 4], "percent", None),
        ("[1, 2, 3, 4]", "percent", None),
        (None, "percent", None),
    ],
)
def test_boxes_become_original_pixels_or_nothing(written, coordinates, box):
    assert read_box(written, coordinates, shown=(100, 50), size=(400, 200)) == box


@pytest.mark.parametrize(
    "one, other, same",
    [
        ("The object is orange.", "orange", True),
        ("Orange", "the orange!", True),
        ("It is a dog.", "A dog", True),
        ("It is not a dog.", "A dog", False),
        ("a cat or a dog", "dog", False),
        ("orange", "red", False),
        ("", "", False),
        ("a", "the", False),
        ("yes", None, False),
        ("2", "12", False),
    ],
)
def test_answers_are_the_same_but_for_dress(one, other, same):
    assert same_answer(one, other) is same_answer(other, one) is same


def test_numbers_and_signs_that_nothing_can_hold_are_no_answer():
    assert read_box([0, 0, 10**400, 1], "percent", (10, 10), (10, 10)) is None
    assert read_json('{"question": "\\ud800"}') is None and read_json('{"question": "\\ud83d\\ude00"}') is not None


def test_a_line_without_end_is_not_searched():
    began = time.monotonic()
    assert read_listing("cat" + " " * 100_000 + "\ndog: [1, 2, 3, 4]") == [("dog", [1.0, 2.0, 3.0, 4.0], "")]
    assert time.monotonic() - began < 1
