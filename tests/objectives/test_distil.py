"""Distillation: which pictures are taught, what the distance is, and where its gradient goes."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from peft import get_peft_model
from PIL import Image

from lynx_moe.adapter import LynxConfig
from lynx_moe.data import Collator, SampleBuilder
from lynx_moe.data.packing import pack
from lynx_moe.data.records import Record
from lynx_moe.errors import ConfigError
from lynx_moe.families.dialects import get_dialect
from lynx_moe.objectives.attached import attach_objectives
from lynx_moe.objectives.distil import Distil, DistilTargets, cosine, shown, smooth_l1
from lynx_moe.objectives.grids import Grids
from lynx_moe.objectives.masks import Masks
from tests.objectives.teachers.tiny_teachers import dinov2, made, mask2former, sam2
from tests.tiny import tiny_llava_with_processor

WIDTH, SIZE = 12, (48, 32)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("taught")
    return {maker.__name__: made(root / maker.__name__, maker) for maker in (sam2, mask2former, dinov2)} | {
        "cache": str(root / "cache")
    }


def settings(folders, **more) -> dict:
    teacher = {"layer": -1, "size": 0, "dtype": "float32"}
    return {
        "weight": 1.0, "low": 1.0, "high": 0.0, "distance": "cosine", "cache_dir": folders["cache"],
        "low_teacher": {**teacher, "kind": "sam2", "path": folders["sam2"]},
        "high_teacher": {**teacher, "kind": "mask2former", "path": folders["mask2former"]}, **more,
    }  # fmt: skip


BOTH = {"high": 1.0}


def builder_of(folders, **more) -> SampleBuilder:
    processor = tiny_llava_with_processor()[1]
    makers = [Distil.target_maker(settings(folders, **more))]
    return SampleBuilder(processor, get_dialect("percent", processor), targets=makers)


def record(colour=(200, 30, 60), size=SIZE, **more) -> Record:
    plain = {
        "id": "r", "image_id": "a", "question": "Find the red star.", "answer": "It is at {box:0}.",
        "kind": "grounding", "task": "find_one", "phrase": "red star", "boxes": ((12.0, 4.0, 36.0, 28.0),),
        "size": size, "load": lambda: drawn(colour, size),
    }  # fmt: skip
    return Record(**{**plain, **more})


def drawn(colour, size) -> Image.Image:
    image = Image.new("RGB", size, (20, 20, 20))
    image.paste(colour, (10, 5, 30, 25))
    return image


RECORDS = [record(), record((0, 250, 0), (32, 32), id="s"), record((9, 9, 250), id="t")]
UNDERSTANDING = record(id="u", kind="understanding", boxes=(), answer="a star")


def batch_of(builder, *records) -> dict:
    return Collator(builder.processor)([builder(each) for each in records])


def states_for(batch, seed=0) -> torch.Tensor:
    return torch.randn(*batch["input_ids"].shape, WIDTH, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def heads(folders, **more) -> tuple[Distil, Masks]:
    torch.manual_seed(0)
    distil, masks = Distil(WIDTH, **settings(folders, **more)), Masks(WIDTH, blocks=1, channels=8)
    distil.meet({"distil": distil, "masks": masks})
    return distil, masks


def test_pictures_of_grounding_records_are_taught_and_no_others(folders):
    batch = batch_of(builder_of(folders), RECORDS[0], UNDERSTANDING, RECORDS[1])
    assert shown(batch, Grids.of(batch)).tolist() == [True, False, True]
    assert heads(folders)[0].counts(batch).tolist() == [2.0]
    assert batch["target_distil_low_picture"].shape == (3, 3, 64, 64)
    assert "target_distil_high_picture" not in batch  # no teacher, no picture for it


def test_a_picture_that_two_packed_records_share_counts_once(folders):
    builder = builder_of(folders)
    samples = [builder.sample(builder.tokens([each])[0], each.sizes) for each in (record(), record(id="v"))]
    prefix = int((samples[0]["input_ids"] == builder.image_token_id).nonzero()[-1]) + 1
    row = {name: value[None] for name, value in pack(samples, prefix).items() if name.startswith("target_")}
    assert shown(row, Grids.of(row)).tolist() == [True]
    assert heads(folders)[0].counts(row).tolist() == [1.0]


def test_the_teacher_sees_the_window_that_the_grid_covers(folders):
    builder = builder_of(folders)
    seen = builder.picture_targets(drawn((250, 0, 0), SIZE))["target_distil_low_picture"][0]
    # 48 x 32 is padded to 48 x 48 from 8 above: the first and last 10 of 64 rows are padding in the mean colour.
    assert (seen[:, :10] == torch.tensor([128, 102, 76])[:, None, None]).all() and (seen[:, 11] < 100).any()


def test_the_low_term_is_the_closed_form_of_what_the_projection_says(folders):
    batch, (distil, _) = batch_of(builder_of(folders), *RECORDS), heads(folders)
    states = states_for(batch)
    by_hand = 0.0
    for row in range(3):
        picture = batch["target_distil_low_picture"][row]
        true = distil.taught["low"](picture, bytes(batch["target_distil_low_content"][row].tolist())).float()
        assert true.shape == (16, 4, 4)  # as many cells as the base has: nothing is resized
        cells = states[row][batch["input_ids"][row] == 3]
        told = F.linear(F.layer_norm(cells, (WIDTH,)), distil.projections["low"].weight, distil.projections["low"].bias)
        flat = true.flatten(1).T
        by_hand += (1 - (told * flat).sum(-1) / (told.norm(dim=-1) * flat.norm(dim=-1))).mean()
    torch.testing.assert_close(distil(states, batch)[0], by_hand, rtol=1e-5, atol=1e-6)


def test_distances_are_nought_at_the_teachers_own_and_known_apart():
    true = torch.randn(1, 2, 2, 8, generator=torch.Generator().manual_seed(0))
    assert cosine(3 * true, true).abs().max() < 1e-6 and (cosine(-true, true) - 2).abs().max() < 1e-6
    assert smooth_l1(F.layer_norm(true, (8,)), true).abs().max() == 0
    # Beyond 1 smooth L1 grows as |x| - 0.5.
    torch.testing.assert_close(smooth_l1(F.layer_norm(true, (8,)) + 3, true), torch.full((1, 2, 2), 2.5))


def test_a_picture_says_the_same_alone_and_beside_larger_ones(folders):
    builder, (distil, _) = builder_of(folders, **BOTH), heads(folders, **BOTH)
    together = batch_of(builder, *RECORDS)
    states = states_for(together)
    alone = []
    for row, each in enumerate(RECORDS):
        own = batch_of(builder, each)
        width = own["input_ids"].shape[1]
        assert torch.equal(own["input_ids"][0], together["input_ids"][row, :width])
        alone.append(distil(states[row : row + 1, :width], own))
    torch.testing.assert_close(distil(states, together), torch.stack(alone).sum(0), rtol=1e-5, atol=1e-5)


def test_the_teachers_map_turns_with_the_picture(folders):
    """A left half that is marked is taught to the left half of the cells."""
    builder, (distil, _) = (
        builder_of(folders, low_teacher=dino(folders, 0)),
        heads(folders, low_teacher=dino(folders, 0)),
    )
    blank, marked = (record(size=(32, 32), load=lambda m=m: half(m)) for m in (False, True))
    maps = [taught_map(distil, batch_of(builder, each)) for each in (blank, marked)]
    moved = (maps[1] - maps[0]).norm(dim=0)
    assert moved[:, :2].min() > 4 * moved[:, 2].max() and moved[:, 3].max() < 1e-3  # smoothing reaches one cell on


def dino(folders, layer: int) -> dict:
    return {"kind": "backbone", "path": folders["dinov2"], "layer": layer, "size": 0, "dtype": "float32"}


def half(marked: bool) -> Image.Image:
    image = Image.new("RGB", (32, 32), (90, 90, 90))
    if marked:
        image.paste((250, 0, 90), (0, 0, 16, 32))
    return image


def taught_map(distil: Distil, batch: dict) -> torch.Tensor:
    """(C, 4, 4)"""
    content = bytes(batch["target_distil_low_content"][0].tolist())
    found = distil.taught["low"](batch["target_distil_low_picture"][0], content).float()
    return F.interpolate(found[None], size=(4, 4), mode="bilinear", antialias=True)[0]


@pytest.mark.parametrize("distance", ["cosine", "smooth_l1"])
def test_both_terms_fall_where_states_and_heads_learn(folders, distance):
    batch = batch_of(builder_of(folders, **BOTH), *RECORDS)
    distil, masks = heads(folders, **BOTH, distance=distance)
    states = states_for(batch)
    trained = torch.optim.Adam([states, *distil.parameters(), *masks.parameters()], lr=3e-2)
    found = []
    for _ in range(25):
        trained.zero_grad()
        sums = distil(states, batch)
        sums.sum().backward()
        trained.step()
        found.append(sums.detach())
    assert distil.terms == ("distil_low", "distil_high") and (found[-1] < 0.7 * found[0]).all()


def test_only_states_of_picture_tokens_get_a_gradient_and_nothing_of_the_teacher_is_held(folders):
    batch, (distil, masks) = batch_of(builder_of(folders, **BOTH), *RECORDS, UNDERSTANDING), heads(folders, **BOTH)
    states = states_for(batch)
    distil(states, batch).sum().backward()
    touched = states.grad.abs().sum(-1) > 0
    picture = batch["input_ids"] == 3
    picture[3] = False
    assert torch.equal(touched, picture)
    assert {name.split(".")[0] for name in distil.state_dict()} == {"projections"}
    assert all(p.grad is not None for p in masks.upsampling.parameters())
    assert not any(p.requires_grad for t in distil.taught.values() if t._teacher for p in t._teacher.model.parameters())


@pytest.mark.parametrize("chosen", [[UNDERSTANDING], [record(size=None, load=None, boxes=(), answer="no")]])
def test_every_parameter_gets_a_gradient_of_nought_where_no_picture_is_taught(folders, chosen):
    batch, (distil, masks) = batch_of(builder_of(folders, **BOTH), *chosen), heads(folders, **BOTH)
    distil(states_for(batch), batch).sum().backward()
    held = [*distil.parameters(), *masks.upsampling.parameters()]
    assert all(p.grad is not None and not p.grad.any() for p in held) and not distil.counts(batch).any()


def test_the_upsampled_map_cannot_be_taught_without_the_head_that_makes_it(folders):
    own = settings(folders, **BOTH) | {"high_teacher": {"path": "there is none"}}  # said before it is looked for
    model = get_peft_model(tiny_llava_with_processor()[0], LynxConfig(prompt_gate="on", expert_width=8))
    with pytest.raises(ConfigError, match="objective.masks is off"):
        attach_objectives(model, {"distil": own})


def test_the_upsampled_map_of_all_tiles_cannot_be_taught(folders):
    own = settings(folders, **BOTH)
    with pytest.raises(ConfigError, match="objective.masks.tiles"):
        Distil.goes_beside(own, {"distil": own, "masks": {"tiles": True}})


def test_targets_hold_no_weights_and_know_where_a_teacher_looks(folders):
    maker = Distil.target_maker(settings(folders, **BOTH))
    assert isinstance(maker, DistilTargets) and set(maker.preparing) == {"low", "high"}
    one, two = (maker.of_image(tiny_llava_with_processor()[1], drawn((c, 0, 0), SIZE)) for c in (250, 90))
    assert not np.array_equal(one["target_distil_low_content"], two["target_distil_low_content"])
