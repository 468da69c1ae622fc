"""Regions: which words and boxes records give, what the head learns from them, and where its gradient goes."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lynx_moe.data import Collator, SampleBuilder
from lynx_moe.data.packing import chain, pack
from lynx_moe.data.records import Record, Step
from lynx_moe.data.steps import Stepwise, step_tokens
from lynx_moe.errors import DialectError
from lynx_moe.families.dialects import PercentDialect, get_dialect
from lynx_moe.families.picture_grid import picture_grid
from lynx_moe.objectives.regions import Regions, RegionTargets, same_region
from lynx_moe.ops.boxes import corners, giou
from tests.tiny import tiny_llava_with_processor

WIDTH = 12
SIZE = (48, 32)  # padded to a square: the window is 48 x 48, from 8 above the picture


@pytest.fixture(scope="module")
def builder():
    processor = tiny_llava_with_processor()[1]
    return SampleBuilder(processor, get_dialect("percent", processor), mark_steps=True, targets=[RegionTargets(True)])


def record(**more) -> Record:
    plain = {
        "id": "r", "image_id": "a", "question": "Find the red star.", "answer": "It is at {box:0}.",
        "kind": "grounding", "task": "find_one", "phrase": "red star", "boxes": ((12.0, 4.0, 36.0, 28.0),),
        "size": SIZE, "load": lambda: None,
    }  # fmt: skip
    return Record(**{**plain, **more})


def sample(builder, chosen) -> dict:
    return builder.sample(builder.tokens([chosen])[0], chosen.sizes)


def read(builder, made: dict) -> tuple[list[str], list[int]]:
    """The word at each target, and its kind."""
    at = made["target_region"].nonzero().squeeze(1)
    return [builder.tokenizer.decode(made["input_ids"][k]) for k in at], made["target_region"][at].tolist()


def place(made: dict, name: str = "target_region") -> list[float]:
    at = made["target_region"].nonzero().squeeze(1)[0]
    return [made[f"{name}_{axis}"][at].item() for axis in "xywh"]


# ---- targets ----


def test_phrase_ends_in_the_question_before_any_box_is_written(builder):
    made = sample(builder, record())
    assert read(builder, made) == (["star"], [2])
    at = made["target_region"].nonzero().squeeze(1)[0]
    before = builder.tokenizer.decode(made["input_ids"][: at + 1][made["labels"][: at + 1] == -100])
    assert before.endswith("Find the red star") and "[" not in before


def test_box_is_centre_and_size_in_the_window_that_the_model_sees(builder):
    assert place(sample(builder, record())) == pytest.approx([24 / 48, (16 + 8) / 48, 24 / 48, 24 / 48])


def test_a_word_is_found_by_itself_and_not_within_another(builder):
    made = sample(builder, record(question="Find the star , not stars", phrase="star"))
    at = made["target_region"].nonzero().squeeze(1)[0]
    assert builder.tokenizer.decode(made["input_ids"][at + 1 : at + 3]) == " ,"


NOTHING = {
    "understanding": {"kind": "understanding"},
    "two boxes": {"boxes": ((0.0, 0.0, 9.0, 9.0), (9.0, 9.0, 20.0, 20.0)), "answer": "at {box:0} {box:1}"},
    "no box": {"boxes": (), "answer": "no"},
    "phrase not in the question": {"phrase": "blue dog"},
    "no phrase": {"phrase": ""},
    "box in the question beside one to find": {
        "question": "Find the red star at {box:0}", "question_boxes": ((0.0, 0.0, 9.0, 9.0),),
    },
    "text only": {"size": None, "load": None, "boxes": (), "answer": "no"},
}  # fmt: skip


@pytest.mark.parametrize("more", NOTHING.values(), ids=NOTHING)
def test_records_without_one_region_and_its_words_give_none(builder, more):
    assert not sample(builder, record(**more))["target_region"].any()


def test_region_that_the_question_shows_is_paired_with_the_answers_end_and_its_box_is_not_asked(builder):
    shown = record(
        question="What is at {box:0}", question_boxes=((2.0, 2.0, 9.0, 9.0),), boxes=(), phrase="", answer="a dog"
    )
    made = sample(builder, shown)
    assert read(builder, made) == (["dog"], [1])
    assert (made["labels"][made["target_region"].nonzero()] != -100).all()


def test_the_whole_picture_is_a_region_and_no_box_to_tell(builder):
    assert read(builder, sample(builder, record(boxes=((0.0, 0.0, 48.0, 32.0),))))[1] == [1]
    assert read(builder, sample(builder, record(boxes=((0.0, 0.0, 48.0, 31.0),))))[1] == [2]


def test_a_box_that_cannot_be_seen_is_the_dialects_error_as_everywhere():
    processor = tiny_llava_with_processor()[1]
    builder = SampleBuilder(processor, PercentDialect(), targets=[RegionTargets(True)])
    with pytest.raises(DialectError):
        builder.tokens([record(boxes=((60.0, 0.0, 70.0, 9.0),))])


def test_cells_stand_at_the_pictures_tokens_and_nowhere_else(builder):
    made = sample(builder, record())
    picture = made["input_ids"] == builder.image_token_id
    assert torch.equal(made["target_cell_w"] > 0, picture) and picture.sum() == 16
    cells = picture_grid(builder.processor, SIZE).cells()
    assert np.allclose(torch.stack([made[f"target_cell_{axis}"][picture] for axis in "xywh"], 1), cells)


def test_a_question_learned_step_by_step_counts_its_phrase_once(builder):
    steps = (Step("Find the cat at {box:0}.", ((1.0, 2.0, 9.0, 9.0),)),)
    stepwise = record(steps=steps)
    rows = step_tokens(builder, stepwise, Stepwise("faithful"))
    assert [len(tokens.targets) for tokens in rows] == [1, 0]


def test_packing_moves_targets_with_their_tokens(builder):
    one, two = record(), record(id="s", question="Find the small dog.", phrase="small dog")
    samples = [sample(builder, each) for each in (one, two)]
    prefix = int((samples[0]["input_ids"] == builder.image_token_id).nonzero()[-1]) + 1
    row = pack(samples, prefix)
    assert read(builder, row) == (["star", "dog"], [2, 2]) and (row["target_cell_w"] > 0).sum() == 16
    both = chain([pack([s], prefix) for s in samples])
    assert read(builder, both) == (["star", "dog"], [2, 2]) and (both["target_cell_w"] > 0).sum() == 32


# ---- the head ----


def batch_of(builder, *records) -> dict:
    return Collator(builder.processor)([sample(builder, each) for each in records])


def head(**more) -> Regions:
    torch.manual_seed(0)
    return Regions(WIDTH, projection=8, **more)


def states_for(batch, seed=0) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(*batch["input_ids"].shape, WIDTH, generator=draw).requires_grad_()


FOUR = [record(id=f"r{k}", image_id=f"p{k}", boxes=((2.0 + 4 * k, 3.0, 14.0 + 5 * k, 20.0 + 2 * k),)) for k in range(4)]


def test_box_terms_are_the_sums_of_l1_and_giou_of_what_the_head_says(builder):
    batch, regions = batch_of(builder, *FOUR), head(contrast=0, matching=0)
    states = states_for(batch)
    sums = dict(zip(regions.terms, regions(states, batch), strict=True))
    l1 = lost = 0.0
    for row in range(4):
        at = batch["target_region"][row].nonzero().squeeze(1)[0]
        told = regions.box(F.layer_norm(states[row, at], (WIDTH,))).sigmoid()
        true = torch.tensor([batch[f"target_region_{axis}"][row, at] for axis in "xywh"])
        l1 += (told - true).abs().sum()
        lost += 1 - giou(corners(told), corners(true))
    torch.testing.assert_close(sums["regions_l1"], l1)
    torch.testing.assert_close(sums["regions_giou"], lost)
    assert regions.counts(batch).tolist() == [4, 4]
    assert not hasattr(regions, "match") and not hasattr(regions, "of_text")


def test_a_region_is_the_mean_of_its_picture_tokens_weighed_by_how_much_of_each_it_covers(builder):
    batch, regions = batch_of(builder, record(boxes=((12.0, 4.0, 30.0, 16.0),)), FOUR[1]), head()
    states = states_for(batch)
    rows, places = (batch["target_region"] > 0).nonzero(as_tuple=True)
    box = torch.stack([batch[f"target_region_{axis}"][rows, places] for axis in "xywh"], -1)
    pooled = regions._pooled(states, batch, rows, places, box)
    # By hand, in pixels: cells are 12 x 12 from 8 above the picture; all of column 1, half of 2; all of row 1.
    cells = states[0][batch["input_ids"][0] == builder.image_token_id].view(4, 4, WIDTH)
    by_hand = (cells[1, 1] + cells[1, 2] / 2) / 1.5
    torch.testing.assert_close(pooled[0], F.layer_norm(by_hand, (WIDTH,)), rtol=1e-4, atol=1e-4)


def test_only_states_of_the_phrase_and_of_the_region_get_a_gradient(builder):
    batch, regions = batch_of(builder, *FOUR), head()
    states = states_for(batch)
    torch.manual_seed(0)
    regions(states, batch).sum().backward()
    touched = states.grad.abs().sum(-1) > 0
    picture = batch["input_ids"] == builder.image_token_id
    phrase = batch["target_region"] > 0
    assert touched[phrase].all() and not touched[~phrase & ~picture].any()
    assert 0 < touched[picture].sum() < picture.sum()


@pytest.mark.parametrize("chosen", [[], FOUR[:1], [record(kind="understanding")]], ids=["mixed", "one", "none"])
def test_every_parameter_gets_a_gradient_whatever_a_batch_holds(builder, chosen):
    batch, regions = batch_of(builder, *(chosen or [*FOUR, record(kind="understanding")])), head()
    regions(states_for(batch), batch).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in regions.parameters())
    if len(chosen) == 1 and chosen[0].kind == "understanding":
        assert not any(p.grad.any() for p in regions.parameters()) and not regions.counts(batch).any()


def test_two_records_of_one_place_are_not_told_apart(builder):
    twins = [record(id="a"), record(id="b"), record(id="c", image_id="z")]
    batch = batch_of(builder, *twins)
    rows, places = (batch["target_region"] > 0).nonzero(as_tuple=True)
    box = torch.stack([batch[f"target_region_{axis}"][rows, places] for axis in "xywh"], -1)
    same = same_region(batch["target_region_picture"][rows, places], box)
    assert same.tolist() == [[True, True, False], [True, True, False], [False, False, True]]


def test_contrast_is_lowest_where_words_and_regions_agree(builder):
    batch, regions = batch_of(builder, *FOUR), head(l1=0, giou=0, matching=0)
    torch.nn.init.eye_(regions.of_text.weight)
    torch.nn.init.eye_(regions.of_region.weight)
    states = states_for(batch).detach()
    apart = regions(states, batch).item()
    agreeing = states.clone()
    rows, places = (batch["target_region"] > 0).nonzero(as_tuple=True)
    for row, at in zip(rows, places, strict=True):
        agreeing[row] = agreeing[row, at]
    assert regions(agreeing, batch).item() < 0.1 * apart


def test_temperature_stays_in_its_bounds_and_can_come_back(builder):
    batch, regions = batch_of(builder, *FOUR), head(l1=0, giou=0, matching=0)
    states = states_for(batch).detach()
    with torch.no_grad():
        regions.temperature.fill_(0.001)
    at_bound = regions(states, batch)
    with torch.no_grad():
        regions.temperature.fill_(-3.0)
    beyond = regions(states, batch)
    torch.testing.assert_close(beyond, at_bound)
    beyond.sum().backward()
    assert regions.temperature.grad.item() != 0


def test_matching_learns_to_tell_right_from_wrong_pairs(builder):
    batch, regions = batch_of(builder, *FOUR), head(l1=0, giou=0, contrast=0)
    states = states_for(batch).detach()
    assert regions.terms == ("regions_matching",) and not regions.temperature.requires_grad
    before = regions(states, batch).item() / 4
    trained = torch.optim.Adam((p for p in regions.parameters() if p.requires_grad), lr=1e-2)
    for _ in range(60):
        trained.zero_grad()
        regions(states, batch).sum().backward()
        trained.step()
    assert before == pytest.approx(np.log(2), abs=0.1) and regions(states, batch).item() / 4 < 0.1
