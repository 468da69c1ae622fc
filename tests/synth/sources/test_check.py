"""Checking one picture's annotations: what is kept is inside the picture, and ties to what is not kept are cut."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synth.sources.annotation import Annotated, Thing, check, check_box, pack, unpack, whole_size

ANY = st.one_of(st.none(), st.booleans(), st.text(max_size=3), st.integers(), st.floats(), st.lists(st.integers()))


@given(st.one_of(ANY, st.lists(ANY, min_size=4, max_size=4)), st.booleans())
def test_whatever_stands_for_a_box_becomes_one_inside_or_a_reason(value, fractions):
    found = check_box(value, 40, 30, (40, 30) if fractions else (1, 1))
    if not isinstance(found, str):
        assert 0 <= found[0] < found[2] <= 40 and 0 <= found[1] < found[3] <= 30


@pytest.mark.parametrize("number", [10**400, -(10**400), math.inf, math.nan, True, "1", None])
def test_numbers_that_no_float_can_hold_are_none(number):
    assert check_box([0, 0, 5, number], 40, 30) == "box is not four numbers"


@given(ANY, ANY)
def test_a_size_is_two_whole_numbers_or_none_at_all(width, height):
    picture = Annotated(file="a", width=width, height=height)
    if whole_size(picture):
        assert (picture.width is None and picture.height is None) or picture.width >= 1 <= picture.height
        assert type(picture.width) is type(picture.height)


def thing(k, name, box=(0, 0, 5, 5), **more):
    return Thing(id=k, name=name, box=list(box), row=f"r{k}", **more)


def test_ties_to_things_that_are_left_out_are_cut():
    picture = Annotated(
        file="a.png", things=[thing(0, "cat"), thing(1, "dog", (0, 0, 0, 5)), thing(2, "dog"), thing(3, "cup")],
        captions=[["cat dog cup", [[0, 3, [0]], [4, 7, [2]], [8, 11, [3, 2]], [0, 1, []]]]],
        relations=[[0, "on", 3], [0, "eats", 2], [3, "is", 3]],
        regions=[["here", [1, 1, 4, 4], True], ["nowhere", [50, 1, 60, 4], False]],
    )  # fmt: skip
    checked, faults = check(picture, 40, 30)
    assert [t.name for t in checked.things] == ["cat", "cup"] and checked.unsure == ["dog"]
    assert checked.captions == [["cat dog cup", [[0, 3, [0]]]]] and checked.relations == [[0, "on", 3]]
    assert [text for text, _, _ in checked.regions] == ["here"]
    assert sorted(fault.reason for fault in faults) == [
        "box outside the picture", "same name as a crowd or a bad box", "zero area",
    ]  # fmt: skip


def test_what_the_index_keeps_is_what_it_was_given():
    picture = Annotated(
        file="a.png", width=9, height=8, fractions=True, things=[thing(4, "cat", traits=["wet"], crowd=True)],
        captions=[["a", [[0, 1, [4]]]]], unsure=["dog"], absent=[], licence="CC",
    )  # fmt: skip
    data, outlines = pack(picture)
    assert unpack("a.png", 9, 8, data) == picture and outlines is None
