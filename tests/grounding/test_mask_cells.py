"""Masks on cells of a window: areas are kept, and a mask comes back where it was."""

import numpy as np
import pytest
from pycocotools import mask as coco

from lynx_moe.grounding import Mask
from lynx_moe.grounding.mask_cells import from_cells, to_cells

WINDOWS = [(0, 0, 60, 40), (0, -10, 60, 60), (-3.5, -7.25, 90, 77.7)]


def blob(height=40, width=60) -> np.ndarray:
    y, x = np.mgrid[:height, :width] + 0.5
    return ((x - 25) / 17) ** 2 + ((y - 19) / 13) ** 2 < 1


def test_cells_of_whole_pixels_are_their_means():
    mask = np.random.default_rng(0).random((40, 60)) < 0.5
    assert to_cells(mask, (0, 0, 60, 40), 10, 15) == pytest.approx(mask.reshape(10, 4, 15, 4).mean((1, 3)))


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("grid", [(7, 9), (64, 33)])
def test_area_is_kept_wherever_the_edges_of_cells_cut_pixels(window, grid):
    cells = to_cells(blob(), window, *grid)
    assert cells.sum() * window[2] * window[3] / cells.size == pytest.approx(blob().sum(), rel=1e-5)
    assert cells.min() >= 0 and cells.max() <= 1 + 1e-6


def test_a_cropped_picture_loses_what_the_window_does_not_show():
    whole, part = np.ones((40, 60), bool), (10.0, 0.0, 40.0, 40.0)
    assert to_cells(whole, part, 4, 4) == pytest.approx(np.ones((4, 4)))
    back = from_cells(np.ones((4, 4)), part, (60, 40))
    assert back[:, 10:50].all() and back.sum() == 40 * 40


@pytest.mark.parametrize("window", WINDOWS)
def test_a_mask_comes_back_where_it_was(window):
    back = from_cells(to_cells(blob(), window, 24, 24), window, (60, 40))
    assert (back & blob()).sum() / (back | blob()).sum() > 0.93


def test_flipped_pictures_have_flipped_cells_both_ways():
    window = (0, -10, 60, 60)
    cells = to_cells(blob(), window, 16, 16)
    assert to_cells(blob()[:, ::-1], window, 16, 16) == pytest.approx(cells[:, ::-1], abs=1e-6)
    assert (from_cells(cells[:, ::-1], window, (60, 40)) == from_cells(cells, window, (60, 40))[:, ::-1]).all()


def test_between_the_centres_of_cells_probabilities_are_linear():
    # 0 and 1 at the centres 10 and 30: one half at 20.
    assert from_cells(np.array([[0.0, 1.0]]), (0, 0, 40, 1), (40, 1))[0].tolist() == [False] * 20 + [True] * 20


def test_one_cell_is_the_whole_window():
    assert from_cells(np.array([[0.7]]), (0, 0, 5, 4), (5, 4)).all()


@pytest.mark.parametrize("seed", range(20))
def test_arrays_are_written_as_the_coco_api_writes_them(seed):
    draw = np.random.default_rng(seed)
    array = draw.random(draw.integers(1, 70, 2)) < draw.choice([0, 0.02, 0.5, 1])
    made = Mask.of_array(array)
    assert made.counts == coco.encode(np.asfortranarray(array.astype(np.uint8)))["counts"].decode()
    assert (made.array() == array).all() and Mask.of_coco(made.to_coco()) == made
