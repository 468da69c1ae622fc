"""Cells that a prompt covers: by hand on a small grid, and as they must move when the picture is turned over."""

import numpy as np
import pytest

from lynx_moe.families.picture_grid import PictureGrid
from lynx_moe.grounding import Box
from lynx_moe.objectives.prompt_cells import box_cells, mask_cells, point_cells

ROWS, COLUMNS = 3, 4
WIDTH, HEIGHT = 40, 30  # cells of 10 x 10


@pytest.fixture
def grid():
    return PictureGrid(ROWS, COLUMNS, (0.0, 0.0, WIDTH, HEIGHT), np.arange(12), 12, 10)


def cells(*places) -> np.ndarray:
    made = np.zeros((ROWS, COLUMNS), bool)
    for place in places:
        made[place] = True
    return made


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((0, 0, 40, 30), [(r, c) for r in range(3) for c in range(4)]),
        ((4, 4, 16, 6), [(0, 0), (0, 1)]),  # two centres, at (5, 5) and (15, 5)
        ((6, 6, 9, 9), [(0, 0)]),  # no centre: the cell it lies in
        ((6, 6, 12, 9), [(0, 0)]),  # nor here: more of it lies in (0, 0)
        ((0, 12, 26, 14), [(1, 0), (1, 1)]),  # a line between two rows of centres: what it crosses wholly
        ((16, 16, 24, 24), [(1, 1), (1, 2), (2, 1), (2, 2)]),  # four alike
    ],
)
def test_a_box_covers_the_cells_whose_centre_it_holds_and_the_one_it_covers_most(grid, box, expected):
    assert (box_cells(Box(*box), grid) == cells(*expected)).all()


@pytest.mark.parametrize(
    ("point", "place"),
    [((0, 0), (0, 0)), ((9.9, 9.9), (0, 0)), ((10, 10), (1, 1)), ((40, 30), (2, 3)), ((25, 5), (0, 2))],
)
def test_a_point_covers_its_own_cell_alone(grid, point, place):
    assert (point_cells(point, grid) == cells(place)).all()


def test_a_mask_covers_the_cells_that_are_at_least_half_its_own(grid):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[0:10, 0:15] = True  # all of (0, 0), half of (0, 1)
    mask[10:14, 0:10] = True  # 40 % of (1, 0)
    assert (mask_cells(mask, grid) == cells((0, 0), (0, 1))).all()


def test_a_mask_smaller_than_half_a_cell_covers_the_cell_it_lies_in_most_and_an_empty_one_nothing(grid):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[8:12, 28:31] = True
    mask[8, 20] = True
    assert mask_cells(mask, grid).sum() >= 1 and mask_cells(mask, grid)[:, 2].any()
    assert not mask_cells(np.zeros_like(mask), grid).any()


def test_cells_turn_over_with_the_picture(grid):
    draw = np.random.default_rng(0)
    for _ in range(50):
        x1, x2 = np.sort(draw.uniform(0, WIDTH, 2))
        y1, y2 = np.sort(draw.uniform(0, HEIGHT, 2))
        x, y = draw.uniform(0, WIDTH), draw.uniform(0, HEIGHT)
        mask = np.zeros((HEIGHT, WIDTH), bool)
        part = mask[int(y1) : int(y2) + 1, int(x1) : int(x2) + 1]
        part[:] = draw.random(part.shape) < 0.8
        turned = Box(WIDTH - x2, y1, WIDTH - x1, y2)
        assert (box_cells(turned, grid) == box_cells(Box(x1, y1, x2, y2), grid)[:, ::-1]).all()
        assert (point_cells((WIDTH - x, y), grid) == point_cells((x, y), grid)[:, ::-1]).all()
        assert (mask_cells(mask[:, ::-1], grid) == mask_cells(mask, grid)[:, ::-1]).all()


def test_padding_and_crops_move_the_cells_with_the_window():
    padded = PictureGrid(4, 4, (0.0, -5.0, 40.0, 40.0), np.arange(16), 16, 10)
    assert np.argwhere(point_cells((1, 1), padded)).tolist() == [[0, 0]]
    assert np.argwhere(point_cells((1, 6), padded)).tolist() == [[1, 0]]
    cropped = PictureGrid(2, 2, (10.0, 0.0, 20.0, 30.0), np.arange(4), 4, 10)
    assert np.argwhere(box_cells(Box(0, 0, 19, 15), cropped)).tolist() == [[0, 0]]
