"""Objectives beside the answer in trainings: one gradient however a step is cut, heads saved apart, exact resume."""

import copy
import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from lynx_moe.adapter import set_gate
from lynx_moe.data import Collator, SampleBuilder, SampleDataset, load_records
from lynx_moe.errors import CheckpointError, ConfigError, DivergedError, FamilyError, RecordError
from lynx_moe.families.dialects import get_dialect
from lynx_moe.objectives import OBJECTIVES
from lynx_moe.objectives.attached import FILE, heads_of, is_head
from lynx_moe.objectives.regions import RegionTargets
from lynx_moe.training import run
from lynx_moe.training import trainer as trainer_module
from lynx_moe.training.heads import attach_heads, chosen_objectives
from lynx_moe.training.loss import forward_inputs
from lynx_moe.training.method import adapter_state, only_adapter_trains
from lynx_moe.training.objective_settings import ObjectiveSettings, RegionsSettings
from lynx_moe.training.settings import ModelSettings, Settings
from tests.data.written import write_folder
from tests.tiny import tiny_llava_with_processor
from tests.training.conftest import made, written_records
from tests.training.test_data_parallel import train, two_agree_with_one
from tests.training.test_run import Interrupted, resumes_to_the_bits, stop_at
from tests.training.test_trainer import NO_PENALTY, awake, close, gradients, trainer_of


def with_phrases(first: int, count: int) -> tuple[list[dict], list[dict]]:
    records, pictures = written_records(first, count)
    for record in records:
        if record["kind"] == "grounding":
            record["phrase"] = record["question"].removeprefix("Find the ").removesuffix(".")
    return records, pictures


@pytest.fixture(scope="module")
def region_folder(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("regions")
    write_folder(folder, [with_phrases(12, 5)], split="validation")
    return str(write_folder(folder, [with_phrases(0, 12)]))


in_other_ways = pytest.mark.parametrize(
    "more",
    [
        {"data": {"pack_tokens": 96}},
        {"data": {"packing": "sequence", "pack_tokens": 128}},
        {"prefix_cache": "decoder", "adapter": {"layers": "upper_half"}},
        {"adapter": {"method": "lora"}},
    ],
    ids=["packed by picture", "packed by sequence", "prefix cache", "lora"],
)


def settings_of(base_folder: str, folder: str, out: Path, *, regions: dict | None = None, **trainer) -> Settings:
    settings = made(base_folder, folder, **trainer)
    settings.objective.regions = RegionsSettings(**{"weight": 1.0, **(regions or {})})
    settings.output_dir = str(out)
    return settings


@pytest.fixture(scope="module")
def parts(region_folder):
    model, processor = tiny_llava_with_processor()
    builder = SampleBuilder(processor, get_dialect("percent", processor), targets=[RegionTargets(True)])
    samples = list(SampleDataset(load_records(region_folder, "train"), builder))
    return model, samples, Collator(processor)


def headed(vlm, **regions):
    """A model with awake experts and a head, as after some training."""
    model = awake(vlm, **NO_PENALTY)
    objective = ObjectiveSettings(regions=RegionsSettings(**{"weight": 1.0, "projection": 16, **regions}))
    attach_heads(model, Settings(model=ModelSettings(path="-"), objective=objective))
    return model


BOXES = {"contrast": 0.0, "matching": 0.0}


# ---- the gradient ----


@pytest.mark.parametrize("retention_kl", [0.0, 1.0])
def test_accumulated_gradient_of_experts_and_head_is_that_of_the_joint_batch(parts, tmp_path, retention_kl):
    vlm, samples, collate = parts
    trainer = trainer_of(headed(vlm, **BOXES), tmp_path, collate, retention_kl=retention_kl)
    joint = gradients(trainer, [collate(samples[:7])])
    # Uneven on purpose, one micro-batch without any region.
    pieces = gradients(trainer, [collate(samples[:1]), collate(samples[1:2]), collate(samples[2:7])])
    assert any(is_head(name) and grad.any() for name, grad in joint.items())
    close(joint, pieces, rtol=1e-3, atol=1e-5)


def test_contrast_is_the_mean_over_all_pairs_of_what_each_micro_batch_tells_apart(parts, tmp_path):
    vlm, samples, collate = parts
    pairs = [s for s in samples if s["is_grounding"].any()]
    batches = [collate(pairs[:2]), collate(pairs[2:6])]
    only = {"l1": 0.0, "giou": 0.0, "matching": 0.0}
    trainer = trainer_of(headed(vlm, **only), tmp_path, collate)
    together = gradients(trainer, batches)
    weighed = [gradients(trainer, [batch]) for batch in batches]
    # The answer's share is a mean over answer tokens, which the heads do not see: they tell the contrast alone.
    for name in (n for n in together if is_head(n)):
        expected = (2 * weighed[0][name] + 4 * weighed[1][name]) / 6
        torch.testing.assert_close(together[name], expected, rtol=1e-3, atol=1e-6)


def test_gradient_reaches_experts_below_and_nothing_of_the_base(parts, tmp_path):
    vlm, samples, collate = parts
    model = headed(vlm)
    model.base_model.lynx_heads["regions"].weights = (1e3,) * 4  # so that the answer's own gradient is drowned
    with_head = gradients(trainer_of(model, tmp_path, collate), [collate(samples[:6])])
    without = gradients(trainer_of(awake(vlm, **NO_PENALTY), tmp_path, collate), [collate(samples[:6])])
    experts = [name for name in with_head if "down_EDF" in name]
    assert experts and all(with_head[n].norm() > 10 * without[n].norm() for n in experts)
    assert all(p.grad is None for n, p in model.named_parameters() if "lynx_" not in n)
    assert only_adapter_trains(model) == sum(g.numel() for g in with_head.values())


def test_checkpointing_changes_no_gradient_of_head_or_experts(parts, tmp_path):
    vlm, samples, collate = parts
    batch = collate(samples[:6])
    plain = gradients(trainer_of(headed(vlm, **BOXES), tmp_path, collate), [batch])
    model = headed(vlm, **BOXES)
    model.get_base_model().activation_checkpointing_enable({"use_reentrant": False})
    close(plain, gradients(trainer_of(model, tmp_path, collate), [batch]), rtol=1e-3, atol=1e-5)


def test_prefix_of_padding_and_neighbours_changes_no_region(parts, tmp_path):
    vlm, samples, collate = parts
    trainer = trainer_of(headed(vlm, **BOXES).eval(), tmp_path, collate)
    pairs = [s for s in samples if s["is_grounding"].any()][:4]

    def terms(batch):
        with torch.no_grad(), set_gate(trainer.model, True):
            return trainer.answer_loss(trainer.model, batch, trainer.answer_loss.counts(batch)).terms

    alone = [terms(collate([s])) for s in pairs]
    together = terms(collate(pairs))
    for name in ("regions_l1", "regions_giou"):
        assert together[name].item() == pytest.approx(sum(t[name].item() for t in alone) / 4, rel=1e-4)


def test_without_an_objective_nothing_is_watched_and_nothing_else_is_counted(parts, tmp_path):
    vlm, samples, collate = parts
    trainer = trainer_of(awake(vlm), tmp_path, collate)
    batch = collate(samples[:2])
    assert not trainer.answer_loss.objectives and len(trainer.answer_loss.counts(batch)) == 2
    assert not chosen_objectives(Settings(model=ModelSettings(path="-")))
    assert not [name for name in forward_inputs(batch) if name.startswith("target_")]


# ---- whole runs ----


@pytest.fixture(scope="module")
def finished(base_folder, region_folder, tmp_path_factory):
    chosen = {"max_steps": 30, "batch_size": 8, "learning_rate": 1e-2, "retention_kl": 0.1, "evaluate_every": 15}
    settings = settings_of(base_folder, region_folder, tmp_path_factory.mktemp("run"), **chosen)
    return settings, run(settings)


def rows_of(settings: Settings) -> list[dict]:
    return [json.loads(line) for line in Path(settings.output_dir, "log.jsonl").read_text().splitlines()]


def test_every_term_is_logged_trained_and_measured_on_held_out_records(finished):
    settings, card = finished
    rows = [row for row in rows_of(settings) if "loss" in row]
    names = {"regions_l1", "regions_giou", "regions_contrast", "regions_matching"}
    assert names <= rows[0].keys() and card["dead_parameters"] == []
    for name in ("regions_l1", "regions_giou"):
        assert sum(row[name] for row in rows[-5:]) < 0.6 * sum(row[name] for row in rows[:5])
    held_out = [row for row in rows_of(settings) if "eval_loss" in row]
    for row in held_out:
        assert row["eval_loss"] == pytest.approx(
            row["eval_answer_loss"] + 0.1 * row["eval_retention_kl"] + sum(row[f"eval_{name}"] for name in names),
            rel=1e-4,
        )


def test_base_is_byte_for_byte_what_it_was_and_the_adapter_off_gives_its_bits(finished, base_folder):
    settings, card = finished
    assert card["base_hash_unchanged"]
    base = AutoModelForImageTextToText.from_pretrained(base_folder).eval().requires_grad_(False)
    ids = torch.tensor([[1, *[3] * 16, 40, 41, 42]])
    inputs = {"input_ids": ids, "pixel_values": torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))}
    expected = base(**inputs).logits
    model = PeftModel.from_pretrained(base, Path(settings.output_dir, "adapter"))
    with model.disable_adapter():
        assert torch.equal(model(**inputs).logits, expected)
    assert not torch.equal(model(**inputs).logits, expected)


def test_saved_adapter_holds_no_head_and_the_heads_file_says_what_it_is(finished, base_folder):
    settings, _ = finished
    adapter = Path(settings.output_dir, "adapter")
    saved = load_file(adapter / "adapter_model.safetensors")
    model = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(base_folder), adapter)
    assert not heads_of(model) and {n.replace(".default", "") for n in adapter_state(model)} == set(saved)
    with safe_open(adapter / FILE, "pt") as file:
        assert json.loads(file.metadata()["plain"])["regions"]["temperature"] == 0.07
        assert all(is_head(name) for name in file.keys())
        assert {name.split(".")[3] for name in file.keys()} == {"box", "of_text", "of_region", "temperature", "match"}


def test_exports_leave_heads_out(finished, tmp_path, base_folder):
    from lynx_moe.export import export
    from lynx_moe.loading import load

    settings, _ = finished
    loaded = load(settings.output_dir)
    export(loaded.model, loaded.processor, tmp_path / "out", route="adapter")
    assert not list((tmp_path / "out").rglob(FILE))


SHORT = {"batch_size": 8, "max_steps": 6, "save_every": 3, "log_every": 2, "retention_kl": 0.5, "learning_rate": 1e-2}


def test_resumed_run_has_the_bits_of_one_that_never_stopped(base_folder, region_folder, tmp_path, monkeypatch):
    whole, halves = (settings_of(base_folder, region_folder, tmp_path / name, **SHORT) for name in ("one", "two"))
    resumes_to_the_bits(whole, halves, monkeypatch, stop=4, resumed_from="checkpoint-3")


def test_going_on_with_other_heads_is_refused_before_a_step(base_folder, region_folder, tmp_path, monkeypatch):
    settings = settings_of(base_folder, region_folder, tmp_path / "run", **SHORT)
    with monkeypatch.context() as patched, pytest.raises(Interrupted):
        stop_at(4, patched)
        run(settings)
    other = copy.deepcopy(settings)
    other.trainer.resume = "always"
    other.objective.regions.projection = 32
    with pytest.raises(CheckpointError, match="other objectives"):
        run(other)
    other.objective.regions.weight = 0.0
    with pytest.raises(CheckpointError, match="do not train now"):
        run(other)


@pytest.mark.slow
def test_publishing_the_best_step_publishes_its_heads(base_folder, region_folder, tmp_path):
    chosen = {**SHORT, "evaluate_every": 2, "publish": "best", "keep": 3, "save_every": 0, "learning_rate": 0.3}
    settings = settings_of(base_folder, region_folder, tmp_path / "run", **chosen)
    card = run(settings)
    best = Path(settings.output_dir, f"checkpoints/checkpoint-{card['train']['best_step']}")
    assert (best / FILE).read_bytes() == Path(settings.output_dir, "adapter", FILE).read_bytes()


@pytest.mark.slow
@in_other_ways
def test_goes_with_packing_prefix_cache_and_baselines(base_folder, region_folder, tmp_path, more):
    settings = settings_of(base_folder, region_folder, tmp_path / "run", max_steps=2, batch_size=4, **more)
    settings.trainer.cache_dir = str(tmp_path / "cache")
    run(settings)
    assert all(row["regions_l1"] > 0 for row in rows_of(settings) if "loss" in row)
    assert Path(settings.output_dir, "adapter", FILE).is_file()


@pytest.mark.slow
def test_terms_of_packed_rows_and_of_a_replayed_prefix_are_those_of_single_records(
    base_folder, region_folder, tmp_path
):
    """One step over all records: contrast and matching too, for all pairs are then in one micro-batch."""
    all_of_it = {"max_steps": 1, "batch_size": 24}
    found = []
    for name, more in {
        "plain": {},
        "packed": {"data": {"pack_tokens": 96}},
        "again": {"prefix_cache": "decoder"},
    }.items():
        settings = settings_of(base_folder, region_folder, tmp_path / name, **all_of_it, **more)
        settings.trainer.cache_dir = str(tmp_path / "cache")
        run(settings)
        found.append(rows_of(settings)[0])
    for name in ("regions_l1", "regions_giou", "regions_contrast"):
        assert found[0][name] == pytest.approx(found[1][name], rel=1e-4) == pytest.approx(found[2][name], rel=1e-4)


# ---- bad input ----


def test_records_without_regions_are_refused_before_a_step(base_folder, tmp_path):
    records, pictures = written_records(0, 4)
    folder = str(write_folder(tmp_path / "data", [([each | {"phrase": ""} for each in records], pictures)]))
    with pytest.raises(
        RecordError, match="none of the 8 records looked at has anything for objective 'regions'"
    ) as why:
        run(settings_of(base_folder, folder, tmp_path / "run", max_steps=1))
    assert "a phrase" in why.value.why


def test_base_without_a_grid_is_refused_by_name_and_box_regression_alone_is_not(
    base_folder, region_folder, tmp_path, monkeypatch
):
    from lynx_moe.families import picture_grid

    monkeypatch.setattr(picture_grid, "GRIDS", {})
    with pytest.raises(FamilyError, match="LlavaProcessor") as caught:
        run(settings_of(base_folder, region_folder, tmp_path / "run", max_steps=1))
    assert "objective.regions.contrast=0" in caught.value.fix
    assert run(settings_of(base_folder, region_folder, tmp_path / "two", max_steps=1, regions=BOXES))


def test_an_objective_of_nothing_is_refused():
    with pytest.raises(ConfigError, match="all of its terms weigh 0"):
        RegionsSettings(weight=1.0, l1=0.0, giou=0.0, contrast=0.0, matching=0.0)
    with pytest.raises(ConfigError, match="objective.regions.temperature"):
        RegionsSettings(temperature=0.9)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_has_settings_of_its_name_that_are_off_unless_asked_for(name):
    assert getattr(ObjectiveSettings(), name).weight == 0


def test_a_head_whose_gradient_is_no_number_is_named(base_folder, region_folder, tmp_path, monkeypatch):
    class Poisoned(trainer_module.LynxTrainer):
        def _clip_grad_norm(self, model):
            heads_of(self.model)["regions"].box[3].bias.grad[0] = torch.nan
            return super()._clip_grad_norm(model)

    monkeypatch.setattr("lynx_moe.training.running.LynxTrainer", Poisoned)
    with pytest.raises(DivergedError, match=r"box\.3\.bias, of the head of objective regions, .* step 1"):
        run(settings_of(base_folder, region_folder, tmp_path / "run", max_steps=2))


# ---- several processes ----


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["none", "zero2", "zero3", "fsdp2"])
def test_two_processes_train_experts_and_head_as_one_does_on_the_joint_batch(
    base_folder, region_folder, tmp_path, sharding
):
    asked = ("objective=grounding", "+objective/extra=regions", "objective.regions.contrast=0", "trainer.save_every=0",
             "objective.regions.matching=0", "trainer.log_every=1")  # fmt: skip
    two_agree_with_one(tmp_path, base_folder, region_folder, asked, sharding)


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["none", "zero3", "fsdp2"])
def test_processes_of_which_one_has_no_region_do_not_wait_for_each_other(base_folder, tmp_path, sharding):
    records, pictures = with_phrases(0, 12)
    few = [each | {"phrase": each["phrase"] if k == 0 else ""} for k, each in enumerate(records)]
    folder = str(write_folder(tmp_path / "data", [(few, pictures)]))
    asked = ("objective=retention", "+objective/extra=regions", "trainer.save_every=2", f"sharding={sharding}")
    card = train(2, 4, tmp_path / "run", base_folder, folder, *asked)
    assert card["train"]["steps"] == 3
