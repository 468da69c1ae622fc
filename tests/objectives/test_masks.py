"""Masks off the state of their word: where it is, what is learned there, and that the picture's place is kept."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lynx_moe.data import Collator, Record, SampleBuilder
from lynx_moe.data.packing import chain, pack
from lynx_moe.data.records import Picture, Step
from lynx_moe.data.steps import Stepwise, step_tokens
from lynx_moe.errors import ConfigError, DialectError, FamilyError
from lynx_moe.families.dialects import get_dialect
from lynx_moe.families.picture_grid import PictureGrid
from lynx_moe.grounding import Mask
from lynx_moe.objectives.grids import Grids
from lynx_moe.objectives.masks import CELLS, MASK, Masks, MaskTargets, mask_word_of
from lynx_moe.objectives.upsampling import Upsampling, blocks_for
from tests.families.test_picture_grid import qwen2_5_vl
from tests.tiny import CHAT_TEMPLATE, tiny_llava_with_processor

WIDTH, SIZE = 8, (48, 32)
BLOCKS = 1


def mask_of(x1, y1, x2, y2, size=SIZE) -> Mask:
    array = np.zeros(size[::-1], bool)
    array[y1:y2, x1:x2] = True
    return Mask.of_array(array)


@pytest.fixture(scope="module")
def builder():
    processor = tiny_llava_with_processor()[1]
    dialect = get_dialect("percent", processor, "[dog]")
    return SampleBuilder(processor, dialect, mark_steps=True, targets=[MaskTargets(BLOCKS)])


def record(**more) -> Record:
    plain = {
        "id": "r", "image_id": "a", "question": "Find the red star.", "answer": "It is {mask:0}.", "kind": "grounding",
        "task": "segment_one", "boxes": ((12.0, 4.0, 36.0, 28.0),), "masks": (mask_of(12, 4, 36, 28),), "size": SIZE,
        "load": lambda: None,
    }  # fmt: skip
    return Record(**{**plain, **more})


TWO = record(
    answer="{mask:0} {mask:1}", boxes=((0.0, 0.0, 12.0, 8.0), (24.0, 8.0, 48.0, 32.0)),
    masks=(mask_of(0, 0, 12, 8), mask_of(24, 8, 48, 32)),
)  # fmt: skip
PLAIN = record(kind="understanding", answer="red", boxes=(), masks=())


def sample(builder, chosen) -> dict:
    return builder.sample(builder.tokens([chosen])[0], chosen.sizes)


def batch_of(builder, *records) -> dict:
    return Collator(builder.processor)([sample(builder, each) for each in records])


def head(**more) -> Masks:
    torch.manual_seed(0)
    return Masks(WIDTH, **{"blocks": BLOCKS, "channels": 4, **more})


def states_for(batch, seed=0) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(*batch["input_ids"].shape, WIDTH, generator=draw).requires_grad_()


# ---- targets ----


def test_the_word_is_its_last_token_in_the_answer(builder):
    made = sample(builder, record())
    (at,) = made[MASK].nonzero()[:, 0].tolist()
    ids = made["input_ids"].tolist()
    assert builder.tokenizer.decode(ids[: at + 1]).endswith("]") and made["labels"][at] != -100
    assert "." in builder.tokenizer.decode(ids[at + 1 : at + 2])


def test_cells_are_the_covered_shares_of_the_window_with_padding_as_background(builder):
    cells = sample(builder, record())[CELLS]
    # The window is 48 x 48 with 8 pixels above the picture, of 8 x 8 cells: y from 12 to 36, x from 12 to 36.
    expected = np.zeros((8, 8))
    expected[2:6, 2:6] = 1
    assert cells.shape == (1, 8, 8) and cells[0].numpy() == pytest.approx(expected, abs=1e-6)


def test_several_masks_come_in_the_order_of_their_words(builder):
    made = sample(builder, TWO)
    assert made[MASK].nonzero().shape[0] == 2
    # Cells are of 6 x 6 = 36 pixels.
    assert (made[CELLS].sum((1, 2)) * 36).tolist() == pytest.approx([96, 576], rel=1e-4)


def test_an_answer_without_masks_has_no_item_and_packs_with_those_that_have(builder):
    made = sample(builder, PLAIN)
    assert not made[MASK].any() and made[CELLS].shape[0] == 0
    prefix = int((made["input_ids"] == builder.image_token_id).nonzero()[-1]) + 1
    row = pack([sample(builder, TWO), made, sample(builder, record())], prefix)
    assert (row[MASK] > 0).sum() == 3 == len(row[CELLS])
    both = chain([pack([s], prefix) for s in (sample(builder, TWO), sample(builder, record()))])
    assert (both[MASK] > 0).sum() == 3 == len(both[CELLS])


def test_a_mask_in_an_earlier_picture_says_how_far_back_that_is(builder):
    several = record(
        more=(Picture("b", (32, 32), lambda: None),), picture=1, masks=(mask_of(0, 0, 8, 8, (32, 32)),),
        boxes=((0.0, 0.0, 8.0, 8.0),),
        steps=(Step("The cat is {mask:0}.", ((0.0, 0.0, 12.0, 8.0),), masks=(mask_of(0, 0, 12, 8),)),),
    )  # fmt: skip
    made = sample(builder, several)
    assert made[MASK][made[MASK] > 0].tolist() == [2, 1]
    grids = Grids.of({name: value[None] for name, value in made.items() if name != CELLS})
    assert len(grids) == 2
    rows = step_tokens(builder, several, Stepwise("faithful"))
    assert [len(tokens.targets) for tokens in rows] == [1, 1]


def test_without_the_head_its_word_cannot_be_written(builder):
    plain = SampleBuilder(builder.processor, builder.dialect.with_mask_word(None))
    with pytest.raises(DialectError, match="cannot write a mask") as error:
        plain.tokens([record()])
    assert "mask head" in error.value.why


# ---- the head ----


def test_terms_are_the_sums_of_cross_entropy_and_dice_of_state_times_map(builder):
    batch, masks = batch_of(builder, record(), TWO, PLAIN), head()
    states = states_for(batch)
    sums = dict(zip(masks.terms, masks(states, batch), strict=True))
    bce = dice = 0.0
    rows, places = (batch[MASK] > 0).nonzero(as_tuple=True)
    for row, at, true in zip(rows, places, batch[CELLS], strict=True):
        cells = states[row][batch["input_ids"][row] == builder.image_token_id]
        square = F.layer_norm(cells, (WIDTH,)).T.reshape(1, WIDTH, 4, 4)
        up = masks.upsampling.blocks[0]
        fine = up.up(masks.upsampling.project(square))
        fine = up.spread(F.gelu(F.layer_norm(fine.movedim(1, -1), (4,), up.norm.weight, up.norm.bias).movedim(-1, 1)))
        query = masks.query(F.layer_norm(states[row, at], (WIDTH,)))
        p = ((fine[0] * query[:, None, None]).sum(0) / 2).sigmoid()
        bce += F.binary_cross_entropy(p, true)
        dice += 1 - (2 * (p * true).sum() + 1) / (p.sum() + true.sum() + 1)
    torch.testing.assert_close(sums["masks_bce"], bce)
    torch.testing.assert_close(sums["masks_dice"], dice)
    assert masks.counts(batch).tolist() == [3] * 4 and masks.weights == (2.0, 0.5, 0.0, 0.0)


def test_only_states_of_words_and_of_their_pictures_get_a_gradient(builder):
    batch, masks = batch_of(builder, record(), PLAIN), head()
    states = states_for(batch)
    masks(states, batch)[:2].sum().backward()
    touched = states.grad.abs().sum(-1) > 0
    picture = batch["input_ids"] == builder.image_token_id
    expected = (batch[MASK] > 0) | picture
    expected[1] = False
    assert torch.equal(touched, expected)


@pytest.mark.parametrize("chosen", [[record()], [PLAIN], [PLAIN, TWO]], ids=["one", "none", "mixed"])
def test_every_parameter_gets_a_gradient_whatever_a_batch_holds(builder, chosen):
    batch, masks = batch_of(builder, *chosen), head()
    masks(states_for(batch), batch).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in masks.parameters())
    if chosen == [PLAIN]:
        assert not any(p.grad.any() for p in masks.parameters()) and not masks.counts(batch).any()


def test_an_empty_mask_is_learned_and_counted(builder):
    empty = record(masks=(Mask.of_array(np.zeros(SIZE[::-1], bool)),))
    batch, masks = batch_of(builder, empty, record()), head()
    sums = dict(zip(masks.terms, masks(states_for(batch), batch), strict=True))
    assert sums["masks_empty"].item() == 1 and all(value.isfinite() for value in sums.values())


def test_pictures_of_other_sizes_in_a_batch_change_no_mask():
    processor = qwen2_5_vl()[1]
    processor.chat_template = CHAT_TEMPLATE
    builder = SampleBuilder(processor, get_dialect("qwen2_5_vl", processor, "[dog]"), targets=[MaskTargets(2)])
    masks = head(blocks=2)
    sizes = [(48, 32), (32, 48), (64, 64), (40, 24)]
    records = [
        record(size=size, masks=(mask_of(2, 3, 20, 17, size),), boxes=((2.0, 3.0, 20.0, 17.0),)) for size in sizes
    ]
    together = batch_of(builder, *records)
    states = states_for(together)
    alone = 0.0
    for row, each in enumerate(records):
        one = batch_of(builder, each)
        alone = alone + masks(states[row : row + 1, : one["input_ids"].shape[1]], one)
    assert len({tuple(size) for size in Grids.of(together).sizes}) == 4
    torch.testing.assert_close(masks(states, together), alone, rtol=1e-4, atol=1e-5)


def test_learning_finds_the_masks(builder):
    batch, masks = batch_of(builder, record(), TWO), head(channels=16)
    states = states_for(batch).detach()
    trained = torch.optim.Adam(masks.parameters(), lr=1e-2)
    for _ in range(150):
        trained.zero_grad()
        sums = masks(states, batch)
        sums[:2].sum().backward()
        trained.step()
    assert sums[2].item() / 3 > 0.9


# ---- upsampling ----


@pytest.mark.parametrize("blocks", [0, 1, 3])
@pytest.mark.parametrize("grid", [(1, 1), (3, 5), (7, 4)])
def test_each_block_doubles_odd_grids_too(blocks, grid):
    fine, inside = Upsampling(WIDTH, 4, blocks)(torch.randn(2, WIDTH, *grid), torch.ones(2, *grid))
    assert fine.shape == (2, 4, grid[0] * 2**blocks, grid[1] * 2**blocks) and inside.all()


@pytest.mark.parametrize(("cell", "blocks"), [(4, 0), (2, 0), (8, 1), (14, 2), (16, 2), (28, 3), (32, 3), (64, 4)])
def test_blocks_bring_cells_to_four_pixels_or_nearest_to_it(cell, blocks):
    assert blocks_for(PictureGrid(8, 8, (0, 0, 1, 1), np.arange(64), 64, cell)) == blocks


def symmetrised(masks: Masks) -> Masks:
    for module in masks.upsampling.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
            with torch.no_grad():
                module.weight.copy_((module.weight + module.weight.flip(-1)) / 2)
    return masks


def test_a_flipped_picture_has_the_flipped_mask(builder):
    batch, masks = batch_of(builder, TWO), symmetrised(head(blocks=2))
    states = states_for(batch).detach()
    picture = batch["input_ids"][0] == builder.image_token_id
    flipped = states.clone()
    flipped[0, picture] = states[0, picture].view(4, 4, WIDTH).flip(1).reshape(16, WIDTH)
    rows, places = (batch[MASK] > 0).nonzero(as_tuple=True)
    grids, of = Grids.of(batch), torch.zeros(2, dtype=torch.long)
    first, _ = masks.logits(states[rows, places], states, grids, of)
    second, _ = masks.logits(states[rows, places], flipped, grids, of)
    torch.testing.assert_close(second, first.flip(-1), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(first, first.flip(-1), atol=1e-3)


# ---- bad input ----


def test_blocks_are_asked_of_the_base_unless_they_are_set(builder):
    own = {"blocks": None, "word": "[dog]"}
    assert Masks.settled(own, builder.processor)["blocks"] == 1  # patches of 8 pixels
    assert Masks.settled(own | {"blocks": 3}, builder.processor)["blocks"] == 3


def test_a_word_that_the_base_cannot_spell_is_refused(builder):
    with pytest.raises(ConfigError, match=r"\[SEG\]"):
        Masks.settled({"blocks": 1, "word": "[SEG]"}, builder.processor)


def test_a_base_whose_tokens_lie_on_no_grid_is_refused_with_the_reason(builder):
    class Blip2Processor:
        tokenizer = builder.tokenizer

    with pytest.raises(FamilyError, match="Blip2Processor") as error:
        Masks.settled({"blocks": None, "word": "[dog]"}, Blip2Processor())
    assert "learned queries" in error.value.why


def test_a_model_without_a_head_has_no_word_for_masks():
    assert mask_word_of(torch.nn.Linear(1, 1)) is None
