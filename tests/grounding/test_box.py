"""Boxes and their overlap, against a count of pixels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lynx_moe.grounding import Box, iou

whole = st.integers(0, 12)
boxes = st.tuples(whole, whole, whole, whole).map(
    lambda b: (min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]), max(b[1], b[3]))
)


def pixels(box):
    grid = np.zeros((12, 12), dtype=bool)
    grid[box[1] : box[3], box[0] : box[2]] = True
    return grid


@given(a=boxes, b=boxes)
def test_iou_is_shared_pixels_over_all_pixels(a, b):
    union = (pixels(a) | pixels(b)).sum()
    expected = (pixels(a) & pixels(b)).sum() / union if union else 0.0
    assert iou(a, b) == pytest.approx(expected)
    assert iou(a, b) == iou(b, a)


def test_inverted_box_overlaps_nothing():
    assert iou((5, 5, 0, 0), (0, 0, 5, 5)) == 0.0


def test_box_is_its_four_numbers_and_keeps_its_label_when_clipped():
    box = Box(-3, 2, 30, 9, "cat", 0.5)
    assert tuple(box) == box.xyxy == (-3, 2, 30, 9)
    clipped = box.clip((20, 10))
    assert clipped.xyxy == (0, 2, 20, 9) and (clipped.label, clipped.confidence) == ("cat", 0.5)


def test_box_outside_the_picture_has_no_area_left():
    assert Box(30, 30, 40, 40).clip((20, 20)).area == 0
