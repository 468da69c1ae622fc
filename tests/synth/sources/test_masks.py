"""Masks are the pixels whose middle lies in the outline; run lengths are COCO's, checked against its own code once."""

import numpy as np
import pytest
from PIL import Image

from synth.sources import masks
from synth.sources.masks import extent, mask_of, runs_of


def block(height, width, top, bottom, left, right):
    mask = np.zeros((height, width), bool)
    mask[top:bottom, left:right] = True
    return mask


def test_a_polygon_along_pixel_edges_is_exactly_those_pixels():
    mask = mask_of({"polygons": [[2, 3, 12, 3, 12, 13, 2, 13]]}, 20, 16, False)
    assert np.array_equal(mask, block(16, 20, 3, 13, 2, 12))


def test_a_polygon_in_fractions_and_two_parts():
    outline = {"polygons": [[0.1, 0.25, 0.6, 0.25, 0.6, 0.75, 0.1, 0.75], [0.8, 0, 1, 0, 1, 0.5, 0.8, 0.5]]}
    mask = mask_of(outline, 10, 8, True)
    assert np.array_equal(mask, block(8, 10, 2, 6, 1, 6) | block(8, 10, 0, 4, 8, 10))


def test_a_slanted_polygon_has_the_area_of_its_triangle_and_stays_in_the_picture():
    mask = mask_of({"polygons": [[0, 0, 100, 0, 0, 100]]}, 100, 100, False)
    assert mask.sum() == pytest.approx(5000, rel=0.01) and mask[0, 0] and not mask[99, 99]
    outside = mask_of({"polygons": [[-50, -50, 20, -50, 20, 20, -50, 20]]}, 100, 100, False)
    assert np.array_equal(outside, block(100, 100, 0, 20, 0, 20))


def test_a_mask_reaches_as_far_as_the_tips_of_its_outline():
    needle = [[10, 10, 60, 10.3, 90, 10, 60, 14, 10, 10]]  # nowhere near its tips is half a pixel covered
    runs = runs_of({"polygons": needle}, 100, 50, False)
    assert runs.extent == (10, 10, 90, 14)
    hair = runs_of({"polygons": [[5, 5, 40, 5.1, 40, 5.2, 5, 5.1]]}, 100, 50, False)
    assert hair.area == 2 and (hair.extent[0], hair.extent[2]) == (5, 40)
    beyond = runs_of({"polygons": [[-30, 10, 20, 10.1, 20, 10.3]]}, 100, 50, False)
    assert beyond.extent == (19, 10, 20, 11)
    assert runs_of({"polygons": [[100, 10, 120, 10, 120, 20]]}, 100, 50, False).area == 0


def test_a_large_shape_drawn_in_parts_is_the_shape_drawn_whole(monkeypatch):
    rng = np.random.default_rng(0)
    outlines = [{"polygons": [rng.uniform(-20, 220, 14).tolist(), [3, 3, 9, 3, 9, 9]]} for _ in range(20)]
    outlines += [{"ellipse": rng.uniform(20, 90, 4).tolist()} for _ in range(5)]
    whole = [runs_of(outline, 200, 150, False).coco() for outline in outlines]
    for part in (40, 999):  # a part of a column; some columns
        monkeypatch.setattr(masks, "_PART", part)
        assert [runs_of(outline, 200, 150, False).coco() for outline in outlines] == whole


def test_no_canvas_is_larger_than_memory_should_hold(monkeypatch):
    sizes, new = [], Image.new
    monkeypatch.setattr(masks.Image, "new", lambda mode, size: sizes.append(size[0] * size[1]) or new(mode, size))
    runs = runs_of({"polygons": [[0, 0, 3000, 0, 3000, 1000]]}, 3000, 1000, False)
    assert runs.area == pytest.approx(1.5e6, rel=1e-3)
    assert sum(sizes) == 16 * 3e6 and max(sizes) <= 2**24


def test_an_ellipse_and_a_patch():
    circle = mask_of({"ellipse": [20, 15, 10, 10]}, 40, 30, False)
    assert circle.sum() == pytest.approx(np.pi * 100, rel=0.03) and circle[15, 20] and not circle[5, 10]
    patch = mask_of({"patch": {"box": [3, 2, 4, 3], "counts": [1, 2, 1, 4, 4]}}, 9, 7, False)
    expected = np.zeros((7, 9), bool)
    expected[2:5, 3:7] = [[0, 1, 1, 0], [1, 1, 1, 1], [0, 0, 0, 0]]
    assert np.array_equal(patch, expected)


def test_run_lengths_go_down_the_columns():
    outline = {"rle": {"size": [2, 3], "counts": [1, 2, 3]}}
    assert np.array_equal(mask_of(outline, 3, 2, False), [[False, True, False], [True, False, False]])


# The texts are what pycocotools 2.0.11 made of these masks.
@pytest.mark.parametrize(
    "text, mask",
    [
        ("9340000000c0", block(7, 9, 2, 5, 1, 6)),
        ("Zi0d0d000000000000000000000000000000000000000000000000n5", block(40, 50, 10, 30, 20, 45)),
    ],
)
def test_compressed_run_lengths_are_those_of_the_coco_code(text, mask):
    height, width = mask.shape
    assert np.array_equal(mask_of({"rle": {"size": [height, width], "counts": text}}, width, height, False), mask)


def test_ids_are_colours_of_a_picture_in_the_folder_only(tmp_path):
    painted = np.zeros((4, 5, 3), np.uint8)
    painted[1:3, 2:4] = (7, 2, 1)
    (tmp_path / "in").mkdir()
    for place in ("in/a.png", "a.png"):
        Image.fromarray(painted).save(tmp_path / place)
    outline = {"ids": {"folder": str(tmp_path / "in"), "file": "a.png", "id": 7 + 2 * 256 + 65536}}
    assert np.array_equal(mask_of(outline, 5, 4, False), block(4, 5, 1, 3, 2, 4))
    assert mask_of({"ids": {**outline["ids"], "file": "../a.png"}}, 5, 4, False) is None


@pytest.mark.parametrize(
    "outline",
    [
        {"polygons": [[1, 2]]}, {"polygons": [["a"] * 6]}, {"polygons": [3]}, {"polygons": [[1, 2, 3, 4, 5, 6, 7]]},
        {"polygons": [[float("nan")] * 6]}, {"rle": {"size": [4, 5], "counts": [3]}}, {"rle": {"size": [4, 5]}},
        {"rle": {"size": [4, 5], "counts": "zzz"}}, {"rle": {"size": [4, 5], "counts": [21, -1]}},
        {"patch": {"box": [3, 3, 9, 9], "counts": [81]}}, {"ellipse": [1, 2, 3]},
    ],
)  # fmt: skip
def test_an_outline_that_cannot_be_drawn_gives_no_mask(outline):
    assert mask_of(outline, 5, 4, False) is None


def test_extent_of_polygons_and_of_none():
    assert extent([[1, 2, 5, 0, 3, 9], [0, 4, 1, 5, 2, 6]]) == [0, 0, 5, 9]
    assert extent([[1, "x", 3, 4]]) is None and extent([]) is None
