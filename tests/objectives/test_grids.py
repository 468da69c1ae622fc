"""Pictures of a batch as maps: every state where its cell is, whatever the batch is made of."""

import numpy as np
import pytest
import torch

from lynx_moe.data.packing import chain, pack
from lynx_moe.families.picture_grid import picture_grid
from lynx_moe.objectives.grids import COLUMN, NAMES, ROW, Grids, grid_targets
from tests.tiny import tiny_llava_with_processor


def batch_of(rows: list[list[tuple[int, int]]], gap: int = 2) -> tuple[dict, list[torch.Tensor]]:
    """Rows that show grids of these sizes with tokens between them, and the places of each picture's cells."""
    made, places = [], []
    for number, sizes in enumerate(rows):
        row, column = [0] * gap, [0] * gap
        for height, width in sizes:
            places.append(torch.tensor([[number, len(row) + k] for k in range(height * width)]))
            row += [r + 1 for r in range(height) for _ in range(width)] + [0] * gap
            column += [c + 1 for _ in range(height) for c in range(width)] + [0] * gap
        made.append((torch.tensor(row), torch.tensor(column)))
    length = max(len(row) for row, _ in made)
    pad = lambda value: torch.nn.functional.pad(value, (0, length - len(value))).to(torch.int16)  # noqa: E731
    batch = {ROW: torch.stack([pad(r) for r, _ in made]), COLUMN: torch.stack([pad(c) for _, c in made])}
    return batch, places


def test_every_state_is_where_its_cell_is():
    sizes = [[(2, 3), (4, 4)], [], [(2, 3)], [(1, 1), (2, 3)]]
    batch, places = batch_of(sizes)
    states = torch.randn(*batch[ROW].shape, 5, requires_grad=True)
    grids = Grids.of(batch)
    assert grids.sizes == [size for row in sizes for size in row] and grids.row_P.tolist() == [0, 0, 2, 3, 3]
    found = {}
    for numbers, maps in grids.maps(states):
        found |= dict(zip(numbers.tolist(), maps, strict=True))
    assert sorted(found) == [0, 1, 2, 3, 4]
    for number, place in enumerate(places):
        height, width = grids.sizes[number]
        expected = states[place[:, 0], place[:, 1]].reshape(height, width, 5).permute(2, 0, 1)
        torch.testing.assert_close(found[number], expected)
    sum(found[1].flatten()).backward()
    assert states.grad.sum().item() == 4 * 4 * 5 and states.grad[0].any() and not states.grad[1:].any()


def test_a_token_belongs_to_the_picture_that_began_last():
    batch, places = batch_of([[(1, 2), (2, 1)], [(1, 1)]])
    picture = Grids.of(batch).picture_BL
    assert picture[0].tolist() == [-1, -1, 0, 0, 0, 0, 1, 1, 1, 1]
    assert picture[1].tolist() == [-1, -1, 2, 2, 2, 2, 2, 2, 2, 2]


def test_only_the_wanted_are_made():
    batch, _ = batch_of([[(1, 2), (2, 1)], [(1, 2)]])
    states = torch.randn(*batch[ROW].shape, 3)
    (only,) = Grids.of(batch).maps(states, torch.tensor([False, False, True]))
    assert only[0].tolist() == [2] and only[1].shape == (1, 3, 1, 2)


def test_a_batch_without_pictures_has_none():
    batch, _ = batch_of([[], []])
    grids = Grids.of(batch)
    assert len(grids) == 0 and list(grids.maps(torch.randn(2, 2, 3))) == []


def test_a_familys_tokens_are_told_their_row_and_column():
    processor = tiny_llava_with_processor()[1]
    grid, made = picture_grid(processor, (48, 32)), grid_targets(processor, (48, 32))
    assert {name: torch.from_numpy(values).dtype for name, values in made.items()} == NAMES
    assert (np.flatnonzero(made[ROW]) == np.sort(grid.places)).all()
    assert made[ROW].max() == grid.rows and made[COLUMN].max() == grid.columns


@pytest.mark.parametrize("share", [0, 2])
def test_items_follow_their_tokens_into_packed_rows(share):
    def sample(first: int, items: int) -> dict:
        ids = torch.tensor([7, 7, first, first])
        labels = torch.tensor([-100, -100, -100, first])
        return {
            "input_ids": ids,
            "labels": labels,
            "is_grounding": torch.ones(4, dtype=torch.bool),
            "target_x": ids.clone(),
            "target_items": torch.full((items, first, 2), float(first)),
        }

    row = pack([sample(1, 2), sample(3, 0), sample(2, 1)], share)
    assert len(row["target_x"]) == len(row["input_ids"]) == 12 - 2 * share
    assert row["target_items"].shape == (3, 3, 2)
    assert row["target_items"].amax(dim=(1, 2)).tolist() == [1, 1, 2]
    both = chain([row, pack([sample(2, 1)], 0)])
    assert both["target_items"].amax(dim=(1, 2)).tolist() == [1, 1, 2, 2]
