"""Visual prompts in trainings: whose gradient reaches what, what cannot go with them, and a run loaded again."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from lynx_moe.data import Collator, SampleBuilder, SampleDataset, load_records
from lynx_moe.errors import ConfigError, RecordError
from lynx_moe.evaluation import evaluate
from lynx_moe.families.dialects import get_dialect
from lynx_moe.loading import load
from lynx_moe.objectives.attached import FILE, heads_of, is_head
from lynx_moe.objectives.prompts import PROMPTS, Prompts
from lynx_moe.training import run
from lynx_moe.training.heads import attach_heads
from lynx_moe.training.measuring import fingerprint
from lynx_moe.training.method import only_adapter_trains
from lynx_moe.training.objective_settings import ObjectiveSettings, PromptsSettings, RegionsSettings
from lynx_moe.training.preparing import prepare
from lynx_moe.training.settings import ModelSettings, Settings
from tests.data.written import write_folder
from tests.tiny import tiny_llava_with_processor
from tests.training.conftest import made, written_records
from tests.training.test_data_parallel import train, two_agree_with_one
from tests.training.test_run import resumes_to_the_bits
from tests.training.test_trainer import NO_PENALTY, awake, close, gradients, trainer_of

NAME = "picture {n}"  # words that the tiny tokenizer knows
VECTORS = "base_model.lynx_heads.prompts.vectors.weight"


def showing(first: int, count: int) -> tuple[list[dict], list[dict]]:
    """The left half of each picture is of another colour than the right one: a place tells the answer."""
    records, pictures = written_records(first, count)
    for k, record in enumerate(records):
        if record["kind"] == "grounding":
            left = k % 4 == 0
            record |= {"question": "What is at {box:0}?", "phrase": "", "boxes": [], "steps": [], "picture": 0}
            record |= {"answer": "red" if left else "blue", "task": "name_region", "more_image_ids": []}
            record |= {"question_boxes": [[0.0, 0.0, 16.0, 32.0] if left else [16.0, 0.0, 32.0, 32.0]]}
    return records, pictures


@pytest.fixture(scope="module")
def prompts_folder(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("prompts")
    write_folder(folder, [showing(12, 6)], split="validation")
    return str(write_folder(folder, [showing(0, 12)]))


def settings_of(base_folder: str, folder: str, out: Path, *, prompts: dict | None = None, **more) -> Settings:
    settings = made(base_folder, folder, **more)
    settings.objective.prompts = PromptsSettings(**{"weight": 1.0, "count": 3, "name": NAME, **(prompts or {})})
    settings.output_dir = str(out)
    return settings


@pytest.fixture(scope="module")
def parts(prompts_folder):
    model, processor = tiny_llava_with_processor()
    targets = Prompts.target_maker({"count": 3, "name": NAME, "box": 1.0, "point": 1.0, "mask": 1.0})
    builder = SampleBuilder(processor, get_dialect("percent", processor), targets=[targets])
    return model, list(SampleDataset(load_records(prompts_folder, "train"), builder)), Collator(processor)


def headed(vlm, **prompts):
    model = awake(vlm, **NO_PENALTY)
    chosen = PromptsSettings(**{"weight": 1.0, "count": 3, "name": NAME, **prompts})
    attach_heads(model, Settings(model=ModelSettings(path="-"), objective=ObjectiveSettings(prompts=chosen)))
    return model


# ---- the gradient ----


def test_gradient_of_the_answer_reaches_the_experts_and_the_vectors_that_were_shown_and_nothing_of_the_base(
    parts, tmp_path
):
    vlm, samples, collate = parts
    model = headed(vlm)
    found = gradients(trainer_of(model, tmp_path, collate), [collate(samples[:6])])
    assert found[VECTORS][0].norm() > 0 and not found[VECTORS][1:].any()
    assert all(p.grad is None for n, p in model.named_parameters() if "lynx_" not in n)
    assert only_adapter_trains(model) == sum(g.numel() for g in found.values())


def test_gradient_of_the_vectors_is_the_slope_of_the_loss(parts, tmp_path):
    vlm, samples, collate = parts
    model, batch = headed(vlm).double(), collate(samples[:4])
    batch["pixel_values"] = batch["pixel_values"].double()
    trainer = trainer_of(model, tmp_path, collate)
    slope = gradients(trainer, [batch])[VECTORS]
    vectors, step = heads_of(model)["prompts"].vectors.weight, 1e-2
    direction = torch.zeros_like(vectors)
    direction[0, :5] = torch.tensor([1.0, -1.0, 0.5, 2.0, 0.3])
    losses = []
    for sign in (1, -1):
        with torch.no_grad():
            vectors += sign * step * direction
            losses.append(trainer.answer_loss(model, batch, trainer.answer_loss.counts(batch)).loss.item())
            vectors -= sign * step * direction
    assert (losses[0] - losses[1]) / (2 * step) == pytest.approx((slope * direction).sum().item(), rel=1e-2)


@pytest.mark.parametrize("retention_kl", [0.0, 1.0])
def test_accumulated_gradient_is_that_of_the_joint_batch(parts, tmp_path, retention_kl):
    vlm, samples, collate = parts
    trainer = trainer_of(headed(vlm), tmp_path, collate, retention_kl=retention_kl)
    joint = gradients(trainer, [collate(samples[:7])])
    # Uneven on purpose, one micro-batch without a prompt.
    pieces = gradients(trainer, [collate(samples[:1]), collate(samples[1:2]), collate(samples[2:7])])
    assert any(is_head(name) and grad.any() for name, grad in joint.items())
    close(joint, pieces, rtol=1e-3, atol=1e-5)


def test_a_batch_without_a_prompt_gives_the_vectors_a_gradient_of_zero(parts, tmp_path):
    vlm, samples, collate = parts
    understanding = [each for each in samples if not each["is_grounding"].any()][:3]
    found = gradients(trainer_of(headed(vlm), tmp_path, collate, retention_kl=1.0), [collate(understanding)])
    assert not found[VECTORS].any()


def test_checkpointing_changes_no_gradient(parts, tmp_path):
    vlm, samples, collate = parts
    batch = collate(samples[:6])
    plain = gradients(trainer_of(headed(vlm), tmp_path, collate), [batch])
    model = headed(vlm)
    model.get_base_model().activation_checkpointing_enable({"use_reentrant": False})
    close(plain, gradients(trainer_of(model, tmp_path, collate), [batch]), rtol=1e-3, atol=1e-5)


def test_retention_asks_the_base_without_prompts(parts, tmp_path, monkeypatch):
    vlm, samples, collate = parts
    trainer, batch = trainer_of(headed(vlm), tmp_path, collate, retention_kl=1.0), collate(samples[:4])
    calls, added = [], Prompts.added
    monkeypatch.setattr(Prompts, "added", lambda self, bits: calls.append(1) or added(self, bits))
    gradients(trainer, [batch])
    assert len(calls) == 1 and batch[PROMPTS].any()


# ---- whole runs ----


@pytest.fixture(scope="module")
def finished(base_folder, prompts_folder, tmp_path_factory):
    chosen = {"max_steps": 80, "batch_size": 8, "learning_rate": 1e-2, "evaluate_every": 40}
    chosen |= {"adapter": {"attention_rank": 8, "layers": "all"}, "data": {"tasks": ["name_region"]}}
    settings = settings_of(base_folder, prompts_folder, tmp_path_factory.mktemp("run"), **chosen)
    settings.evaluation.split, settings.evaluation.gate, settings.evaluation.tasks = "train", "on", ["name_region"]
    return settings, run(settings)


def test_a_run_learns_what_only_the_prompts_can_tell_and_leaves_the_base_as_it_was(finished):
    _, card = finished
    words = {when: card["evaluation"][when]["grounding"]["in_words"] for when in ("before", "after")}
    assert words["before"]["accuracy"] == 0 and words["after"]["by_task"]["name_region"]["accuracy"] >= 0.9
    assert words["after"]["by_form"].keys() == {"box"} and words["before"]["by_form"] == {}
    assert card["base_hash_unchanged"] and card["dead_parameters"] == []


def test_the_run_is_loaded_with_its_vectors_and_answers_as_it_did(finished, prompts_folder):
    settings, card = finished
    loaded = load(settings.output_dir)
    saved = load_file(Path(settings.output_dir, "adapter", FILE))
    assert torch.equal(saved[VECTORS], loaded.model.state_dict()[VECTORS])
    assert not any(p.requires_grad for p in heads_of(loaded.model)["prompts"].parameters())
    records = load_records(prompts_folder, "train", tasks=["name_region"])
    with loaded.gate("on"):
        again = evaluate(loaded.model, loaded.processor, records, loaded.dialect, progress=False)
    assert again["grounding"] == card["evaluation"]["after"]["grounding"]


def test_with_the_adapter_off_a_loaded_run_is_the_base_bit_for_bit(finished, base_folder):
    settings, _ = finished
    model = load(settings.output_dir).model
    ids = torch.tensor([[1, *[3] * 16, 40, 41, 42]])
    inputs = {"input_ids": ids, "pixel_values": torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))}
    base = AutoModelForImageTextToText.from_pretrained(base_folder).eval().requires_grad_(False)
    with model.disable_adapter():
        assert torch.equal(model(**inputs).logits, base(**inputs).logits)


SHORT = {"batch_size": 8, "max_steps": 6, "save_every": 3, "log_every": 2, "retention_kl": 0.5, "learning_rate": 1e-2}


def test_resumed_run_has_the_bits_of_one_that_never_stopped(base_folder, prompts_folder, tmp_path, monkeypatch):
    whole, halves = (settings_of(base_folder, prompts_folder, tmp_path / name, **SHORT) for name in ("one", "two"))
    resumes_to_the_bits(whole, halves, monkeypatch, stop=4, resumed_from="checkpoint-3")


def test_the_bases_answers_are_shared_by_runs_with_and_without_prompts_and_not_by_other_places(
    base_folder, prompts_folder, tmp_path
):
    records = load_records(prompts_folder, "train", tasks=["name_region"])
    settings = settings_of(base_folder, prompts_folder, tmp_path / "run")
    prepared = prepare(settings, quiet=True)
    plain = prepare(made(base_folder, prompts_folder), quiet=True)
    assert fingerprint(settings, prepared, records) == fingerprint(settings, plain, records)
    elsewhere = [each for each in records if each.question_boxes[0][0] == 0]
    moved = load_records(prompts_folder, "train", tasks=["name_region"]).select(range(len(elsewhere)))
    assert fingerprint(settings, prepared, elsewhere) != fingerprint(settings, prepared, moved)


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [
        {"data": {"packing": "sequence", "pack_tokens": 128}},
        {"stepwise": "faithful"},
        {"adapter": {"method": "lora"}},
        {"regions": 0.1},
    ],
    ids=["packed by sequence", "steps", "lora", "another objective"],
)
def test_goes_with_packing_by_sequence_steps_baselines_and_other_objectives(
    base_folder, prompts_folder, tmp_path, more
):
    chosen = {name: more[name] for name in ("data", "adapter") if name in more}
    settings = settings_of(base_folder, prompts_folder, tmp_path / "run", max_steps=2, batch_size=4, **chosen)
    settings.objective.stepwise = more.get("stepwise", "whole")
    settings.objective.regions = RegionsSettings(weight=more.get("regions", 0.0), l1=0.0, giou=0.0)
    card = run(settings)
    assert card["dead_parameters"] == []
    assert VECTORS.split(".")[-2] in next(iter(load_file(Path(settings.output_dir, "adapter", FILE))))


# ---- what it cannot go with ----


@pytest.mark.parametrize("kept", ["decoder", "vision"])
def test_a_frozen_prefix_is_refused_because_the_input_is_not_frozen(base_folder, prompts_folder, tmp_path, kept):
    settings = settings_of(base_folder, prompts_folder, tmp_path / "run", max_steps=1, prefix_cache=kept)
    with pytest.raises(ConfigError, match=f"trainer.prefix_cache={kept} with objective.prompts"):
        run(settings)


def test_records_that_share_a_picture_are_refused(base_folder, prompts_folder, tmp_path):
    settings = settings_of(base_folder, prompts_folder, tmp_path / "run", max_steps=1, data={"pack_tokens": 96})
    with pytest.raises(ConfigError, match="objective.prompts with data.packing=picture") as caught:
        run(settings)
    assert "data.packing=sequence" in caught.value.fix


def test_steps_in_segments_beside_rows_that_show_nothing_are_refused(base_folder, prompts_folder, tmp_path):
    settings = settings_of(base_folder, prompts_folder, tmp_path / "run", max_steps=1)
    settings.objective.contrast.weight = 1.0
    settings.objective.stepwise, settings.objective.step_suffixes = "packed", ["one by one", "by one"]
    with pytest.raises(ConfigError, match="objective.prompts with objective.contrast"):
        run(settings)


def test_records_that_show_no_place_are_refused_before_a_step(base_folder, data_folder, tmp_path):
    with pytest.raises(RecordError, match="has anything for objective 'prompts'"):
        run(settings_of(base_folder, data_folder, tmp_path / "run", max_steps=1))


@pytest.mark.parametrize(
    "wrong",
    [{"name": "region"}, {"name": "{n} {n}"}, {"name": "{n} {m}"}, {"box": 0.0, "point": 0.0, "mask": 0.0},
     {"count": 0}, {"count": 32}],
    ids=str,
)  # fmt: skip
def test_settings_that_nothing_can_honour_are_refused(wrong):
    with pytest.raises(ConfigError, match="objective.prompts"):
        PromptsSettings(**{"weight": 1.0, **wrong})


# ---- several processes ----


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["none", "zero2", "zero3", "fsdp2"])
def test_two_processes_train_experts_and_vectors_as_one_does_on_the_joint_batch(
    base_folder, prompts_folder, tmp_path, sharding
):
    asked = ("objective=grounding", "+objective/extra=prompts", "trainer.save_every=0", "trainer.log_every=1")
    two_agree_with_one(tmp_path, base_folder, prompts_folder, asked, sharding)


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["none", "zero3", "fsdp2"])
def test_processes_of_which_one_has_no_prompt_do_not_wait_for_each_other(base_folder, tmp_path, sharding):
    records, pictures = showing(0, 12)
    places = [each["question_boxes"] for each in records if "question_boxes" in each]
    few = [
        each | ({"question": "What is it?", "question_boxes": []} if "question_boxes" in each and k else {})
        for k, each in enumerate(records)
    ]
    assert len(places) == 12
    folder = str(write_folder(tmp_path / "data", [(few, pictures)]))
    asked = ("objective=retention", "+objective/extra=prompts", "trainer.save_every=2", f"sharding={sharding}")
    card = train(2, 4, tmp_path / "run", base_folder, folder, *asked)
    assert card["train"]["steps"] == 3 and card["settings"]["objective"]["prompts"]["weight"] == 1.0
