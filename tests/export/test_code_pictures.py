"""What a modelling file knows of pictures as plain data is what the library knows of them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from lynx_moe.export import code, code_pictures, code_source
from lynx_moe.export.code_pictures import Seen, picture_data
from lynx_moe.export.read import read
from lynx_moe.families.picture_grid import PictureGrid, picture_grid
from lynx_moe.grounding import Box
from lynx_moe.grounding.mask_cells import from_cells
from lynx_moe.objectives.prompt_cells import box_cells, mask_cells, point_cells
from tests.export.heads import BUILDERS, MASKS, PROMPTS
from tests.families.test_picture_grid import llava_next


@pytest.mark.parametrize("family", BUILDERS)
def test_the_files_windows_cells_and_masks_are_the_librarys(family, tmp_path):
    model, processor = BUILDERS[family](MASKS | PROMPTS)
    code.build(read(model, processor), tmp_path)
    file = code._load(tmp_path / "modelling_lynx.py")
    told, draw = picture_data(processor), np.random.default_rng(0)
    for size in ((100, 60), (61, 97), (224, 224), (301, 40)):
        grid = picture_grid(processor, size)
        window = file.window_of(size, told)
        assert window == grid.window
        within = [max(0, window[0]), max(0, window[1])]
        within += [min(size[0], window[0] + window[2]), min(size[1], window[1] + window[3])]
        for _ in range(40):
            x1, x2 = np.sort(draw.uniform(within[0], within[2], 2))
            y1, y2 = np.sort(draw.uniform(within[1], within[3], 2))
            mask = np.zeros(size[::-1], bool)
            mask[int(y1) : int(y2) + 1, int(x1) : int(x2) + 1] = draw.random() < 0.7
            mask[int(y1), int(x1)] = True
            regions = {(x1, y1): point_cells((x1, y1), grid), (x1, y1, x2, y2): box_cells(Box(x1, y1, x2, y2), grid)}
            for region, cells in [*regions.items(), (mask, mask_cells(mask, grid))]:
                assert np.array_equal(file.cells_of(region, grid.rows, grid.columns, window, size), cells)
        cells = draw.random((2 * grid.rows, 2 * grid.columns), dtype=np.float32)
        drawn = file.on_picture(torch.from_numpy(cells).double(), window, size)
        assert np.array_equal(drawn, from_cells(cells, grid.window, size))


def test_layouts_that_plain_data_can_tell():
    told = {name: picture_data(build({})[1]) for name, build in BUILDERS.items()}
    assert [each["layout"] for each in told.values()] == [
        {"rows": 4, "columns": 4, "start": 0}, {"rows": 4, "columns": 4, "start": 1}, {"merge": 2},
    ]  # fmt: skip
    assert picture_data(llava_next()[1])["layout"] == {"rows": 4, "columns": 4, "start": 0}


def test_a_grid_whose_lines_are_runs_of_tokens_is_read_off_the_tokens():
    # As Pixtral and Fuyu write them: a token of another kind ends each line.
    shapes = [(3, 4), (5, 2), (1, 6), (4, 1)]
    written = [np.array([9] + ([7] * columns + [8]) * rows + [9]) for rows, columns in shapes]
    seen = [
        Seen(
            PictureGrid(*shape, (0.0, 0.0, 1.0, 1.0), np.flatnonzero(ids == 7), len(ids), 8),
            np.flatnonzero(ids == 7),
            {},
        )
        for shape, ids in zip(shapes, written, strict=True)
    ]
    assert code_pictures._lines(seen, None) == {}
    assert code_pictures._lines([replace(seen[0], grid=seen[1].grid), *seen], None) is None
    file = {"torch": torch, "nn": nn}
    exec(code_source._sections(code_source._template("asking"), {"lines"}), file)  # noqa: S102
    for shape, ids in zip(shapes, written, strict=True):
        made = {"input_ids": torch.from_numpy(ids)[None]}
        rows, columns, places = file["grid_of"](made, {"token": 7, "layout": {}})
        assert (rows, columns) == shape and np.array_equal(places, np.flatnonzero(ids == 7))
