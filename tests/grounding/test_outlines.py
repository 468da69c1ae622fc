"""Outlines of masks: few corners from which the mask can be drawn again."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lynx_moe.evaluation.metrics.coco import mask_of
from lynx_moe.grounding.outlines import CORNERS, drawn, likeness, outlines, quadrilaterals
from synth.sources.rendered import RenderedOptions, RenderedSource

# Wheels, spokes and frame: 32 corners are too few for more.
INTRICATE = {"bicycle": 0.6}


def disc(side, middle, radius):
    y, x = np.mgrid[:side, :side] + 0.5
    return (x - middle[0]) ** 2 + (y - middle[1]) ** 2 < radius**2


def drawn_by_coco(found, shape):
    return mask_of([[value for corner in outline for value in corner] for outline in found], shape[::-1])


def iou(one, other):
    return (one & other).sum() / (one | other).sum()


@pytest.mark.parametrize("side, least", [(336, 0.9), (128, 0.88)])
def test_rendered_things_are_drawn_again_from_at_most_32_corners(side, least):
    seen, total = 0, 0.0
    for k in range(25):
        source = RenderedSource(RenderedOptions(side=side, objects=[3, 6], overlap=0.3))
        for obj in source.scene(k, "train", 0).objects:
            mask = obj.pixels()
            found = outlines(mask)
            assert 3 <= sum(map(len, found)) <= CORNERS
            again = iou(drawn_by_coco(found, mask.shape), mask)
            assert again >= INTRICATE.get(obj.name, least), (obj.name, again)
            seen, total = seen + 1, total + again
    assert seen > 80 and total / seen > 0.96


def test_a_rectangle_has_its_own_corners():
    mask = np.zeros((60, 80), bool)
    mask[10:40, 20:70] = True
    (found,) = outlines(mask)
    corners = [(20, 10), (70, 10), (70, 40), (20, 40)]
    assert len(found) <= 8
    for corner in corners:
        assert min(np.hypot(x - corner[0], y - corner[1]) for x, y in found) <= 0.75
    assert np.array_equal(drawn_by_coco([found], mask.shape), mask)


def test_a_hole_is_cut_out():
    mask = disc(100, (50, 50), 40) & ~disc(100, (50, 50), 20)
    (found,) = outlines(mask)
    again = drawn_by_coco([found], mask.shape)
    assert not again[50, 50] and iou(again, mask) > 0.9


def test_holes_take_no_more_corners_than_there_are_and_the_largest_are_cut_out():
    y, x = np.mgrid[:400, :400] + 0.5
    mask = np.abs(x - 200) < y / 2
    # A truss: ten triangles like the mask itself, each a quarter of it high, the last ones the largest.
    tips = [(200 + 50 * (2 * k - row), 100 * row) for row in range(4) for k in range(row + 1)]
    for k, (tip_x, tip_y) in enumerate(tips):
        mask &= ~((np.abs(x - tip_x) < (y - tip_y - 20) / 2) & (y < tip_y + 85 + k))
    (found,) = outlines(mask)
    assert CORNERS - 3 <= len(found) <= CORNERS
    again = drawn([found], mask.shape)
    assert [bool(again[tip_y + 70, tip_x]) for tip_x, tip_y in tips] == [True] * 5 + [False] * 5


def test_parts_come_the_largest_first_and_specks_not_at_all():
    mask = disc(120, (30, 30), 12) | disc(120, (80, 70), 25)
    mask[5, 110] = True
    large, small = outlines(mask)
    assert np.allclose(np.mean(large, axis=0), (80, 70), atol=4) and np.allclose(
        np.mean(small, axis=0), (30, 30), atol=3
    )
    assert len(outlines(mask, most=1)) == 1
    assert iou(drawn_by_coco([large, small], mask.shape), mask) > 0.9


def test_pixels_that_touch_in_a_corner_are_parts_of_their_own():
    mask = np.zeros((40, 40), bool)
    mask[5:20, 5:20] = mask[20:34, 20:34] = True
    assert len(outlines(mask)) == 2 and np.array_equal(drawn_by_coco(outlines(mask), mask.shape), mask)
    low = np.zeros((40, 40), bool)
    low[5, 20:34] = low[6:20, 5:20] = True  # the first edge that is met begins where they touch
    assert len(outlines(low)) == len(outlines(low[:, ::-1])) == 2


def test_no_pixel_no_outline_and_one_pixel_one():
    mask = np.zeros((9, 9), bool)
    assert outlines(mask) == [] == quadrilaterals(mask)
    mask[4, 6] = True
    for found in (outlines(mask), quadrilaterals(mask)):
        (outline,) = found
        assert len(outline) >= 3 and all(6 <= x <= 7 and 4 <= y <= 5 for x, y in outline)
    mask[:] = True
    assert np.array_equal(drawn_by_coco(outlines(mask), mask.shape), mask)


blobs = st.lists(
    st.tuples(st.integers(0, 39), st.integers(0, 39), st.integers(1, 20), st.integers(1, 20)), min_size=1, max_size=5
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(blobs)
def test_any_mask_has_outlines_inside_of_its_extent_that_cover_most_of_it(rectangles):
    mask = np.zeros((60, 60), bool)
    for x, y, width, height in rectangles:
        mask[y : y + height, x : x + width] ^= True
    if not mask.any():
        return
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    for found in (outlines(mask), quadrilaterals(mask)):
        for outline in found:
            assert len(outline) >= 3 and np.isfinite(outline).all()
    for x, y in (corner for outline in outlines(mask) for corner in outline):
        assert columns[0] <= x <= columns[-1] + 1 and rows[0] <= y <= rows[-1] + 1
    # With corners for all there are, only what is too small to be told is lost.
    assert iou(drawn_by_coco(outlines(mask, most=60, corners=400), mask.shape), mask) > 0.75


def test_the_outline_of_a_mirrored_mask_is_the_mirrored_outline():
    for k in range(8):
        for obj in RenderedSource(RenderedOptions(side=200)).scene(k, "train", 1).objects:
            mask = obj.pixels()
            one, other = (drawn(outlines(each), mask.shape) for each in (mask, mask[:, ::-1]))
            assert iou(one[:, ::-1], other) > (0.7 if obj.name in INTRICATE else 0.9), obj.name


def test_a_mask_of_specks_takes_no_time():
    mask = (np.add.outer(np.arange(150), np.arange(150)) % 2).astype(bool)
    begun = time.process_time()
    assert 1 <= len(outlines(mask)) <= 4
    assert time.process_time() - begun < 5


def test_quadrilaterals_have_four_corners_and_fit_what_has_four():
    mask = np.zeros((120, 120), bool)
    y, x = np.mgrid[:120, :120] - 60
    mask[(np.abs(0.8 * x + 0.6 * y) < 30) & (np.abs(0.8 * y - 0.6 * x) < 18)] = True
    (found,) = quadrilaterals(mask)
    assert len(found) == 4 and likeness([found], mask) > 0.93
    triangle = np.tri(80, dtype=bool)
    (found,) = quadrilaterals(triangle)
    assert len(found) == 4 and likeness([found], triangle) > 0.93
    assert likeness(quadrilaterals(disc(100, (50, 50), 30)), disc(100, (50, 50), 30)) > 0.6
