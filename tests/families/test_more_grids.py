"""Grids of further families on real models: what stands at a place is what the decoder is given at its cell's token."""

import pytest
import torch
from PIL import Image

from lynx_moe.families.find import find_ffn_blocks
from lynx_moe.families.picture_grid import PictureGrid, picture_grid
from lynx_moe.families.picture_tokens import picture_alone
from tests.families.grid_families import LOOKED_AT, WORDS, aya_vision, chameleon, deepseek_vl, mistral3
from tests.families.test_picture_grid import built, internvl, llava_next, llava_onevision, smolvlm
from tests.tiny_fuyu import fuyu_cuts, tiny_fuyu_with_processor  # noqa: F401

pytestmark = pytest.mark.usefixtures("fuyu_cuts")
SIZES = pytest.mark.parametrize("size", [(64, 64), (96, 60), (40, 64)], ids=["square", "wide", "high"])


TILED = [llava_next, llava_onevision, internvl, smolvlm, aya_vision]


def given_to_the_decoder(model, processor, image: Image.Image, grid: PictureGrid) -> torch.Tensor:
    """(rows * columns, D) what enters the first layer at the cells."""
    inputs = dict(picture_alone(processor, image))
    for name in ("num_patches", "grids"):
        inputs.pop(name, None)
    seen = []
    first = model.get_submodule(find_ffn_blocks(model)[0].inside)
    hook = first.register_forward_pre_hook(
        lambda module, args, named: seen.append(args[0] if args else named["hidden_states"]), with_kwargs=True
    )
    with torch.no_grad():
        model(**inputs)
    hook.remove()
    return seen[0][0, torch.from_numpy(grid.places)]


def marks(grid: PictureGrid, size: tuple[int, int]):
    """Some cells, and the pixels of the picture that each covers."""
    left, top, width, height = grid.window
    cells = grid.cells()
    for cell in range(0, len(cells), max(1, len(cells) // 16)):
        x, y, w, h = cells[cell] * [width, height, width, height]
        box = [round(v) for v in (left + x - w / 2, top + y - h / 2, left + x + w / 2, top + y + h / 2)]
        if min(box) >= 0 and box[2] <= size[0] and box[3] <= size[1]:
            yield cell, box


def check_marks(model, processor, size, grid: PictureGrid, at_least: int) -> None:
    blank = Image.new("RGB", size, (90, 90, 90))
    before = given_to_the_decoder(model, processor, blank, grid)
    looked_at = 0
    for cell, box in marks(grid, size):
        marked = blank.copy()
        marked.paste((250, 30, 200), box)
        moved = (given_to_the_decoder(model, processor, marked, grid) - before).norm(dim=-1)
        assert int(moved.argmax()) == cell, (grid.rows, grid.columns)
        looked_at += 1
    assert looked_at >= at_least


@pytest.mark.parametrize("make", LOOKED_AT, ids=lambda make: make.__name__)
@SIZES
def test_a_mark_on_the_picture_moves_what_is_given_at_its_cell_most(make, size):
    model, processor = built(make)
    check_marks(model, processor, size, picture_grid(processor, size), at_least=6)


@pytest.mark.parametrize("make", TILED, ids=lambda make: make.__name__)
@pytest.mark.parametrize("size", [(64, 32), (56, 64), (40, 96), (160, 90)], ids=str)
def test_a_mark_moves_its_cell_of_all_tiles_too(make, size):
    model, processor = built(make)
    grid, overview = picture_grid(processor, size, finest=True), picture_grid(processor, size)
    assert grid.rows * grid.columns >= overview.rows * overview.columns
    assert not set(grid.places) & set(overview.places) and grid.num_tokens == overview.num_tokens
    check_marks(model, processor, size, grid, at_least=6)


@pytest.mark.parametrize("make", [mistral3, deepseek_vl, tiny_fuyu_with_processor], ids=lambda make: make.__name__)
def test_without_tiles_the_finest_grid_is_the_grid(make):
    _, processor = built(make)
    plain, finest = (picture_grid(processor, (60, 40), finest=chosen) for chosen in (False, True))
    assert (plain.rows, plain.columns, plain.window) == (finest.rows, finest.columns, finest.window)


def test_a_picture_of_one_tile_has_the_overviews_grid():
    _, processor = built(internvl)
    plain, finest = (picture_grid(processor, (32, 32), finest=chosen) for chosen in (False, True))
    assert plain.places.tolist() == finest.places.tolist()


@pytest.mark.parametrize("make", WORDS, ids=lambda make: make.__name__)
@SIZES
def test_cells_are_the_words_of_the_codebook_row_by_row(make, size):
    """The codebook's encoder is convolutional: its rows and columns are those of the picture."""
    model, processor = built(make)
    grid = picture_grid(processor, size)
    image = Image.effect_noise(size, 90).convert("RGB")
    inputs = picture_alone(processor, image)
    with torch.no_grad():
        if make is chameleon:
            ids = model.model.get_image_tokens(inputs["pixel_values"]).reshape(-1)
        else:
            codes = model.model.vqmodel.encode(inputs["pixel_values"], inputs["image_sizes"]).image_tokens[0]
            ids = model.model.vocabulary_mapping.img2bpe_mapping_tensor[codes.reshape(-1)]
    assert len(ids) == grid.rows * grid.columns and len(ids.unique()) > 3
    expected = model.get_input_embeddings()(ids)
    assert torch.equal(given_to_the_decoder(model, processor, image, grid), expected)


@pytest.mark.parametrize("make", [*LOOKED_AT, *WORDS], ids=lambda make: make.__name__)
@SIZES
def test_cells_fill_the_models_input(make, size):
    """Pixels of one tile, or of all patches, are those of all cells."""
    _, processor = built(make)
    grid = picture_grid(processor, size)
    made = picture_alone(processor, Image.new("RGB", size))
    if "image_grid_thw" in made or made["pixel_values"].ndim == 2:
        pixels = made["pixel_values"].shape[0] * made["pixel_values"].shape[-1] / 3
        pixels /= getattr(processor.image_processor, "temporal_patch_size", 1)
    else:
        pixels = made["pixel_values"].shape[-1] * made["pixel_values"].shape[-2]
    assert grid.cell**2 * grid.rows * grid.columns == pixels
