"""Contrast in trainings: rows beside records change no answer, nothing of it is saved but how, and runs resume."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from lynx_moe.adapter.loading import load_adapter
from lynx_moe.data import Collator, SampleBuilder, SampleDataset, load_records
from lynx_moe.errors import ConfigError, RecordError
from lynx_moe.families.dialects import get_dialect
from lynx_moe.objectives.attached import FILE, heads_of
from lynx_moe.objectives.contrast import ContrastTargets
from lynx_moe.training import run
from lynx_moe.training.heads import attach_heads
from lynx_moe.training.method import only_adapter_trains
from lynx_moe.training.objective_settings import ContrastSettings, ObjectiveSettings, RegionsSettings
from lynx_moe.training.settings import ModelSettings, Settings
from tests.data.written import write_folder
from tests.tiny import tiny_llava_with_processor
from tests.training.conftest import made, written_records
from tests.training.test_data_parallel import train
from tests.training.test_run import resumes_to_the_bits
from tests.training.test_trainer import NO_PENALTY, awake, close, gradients, trainer_of


def settings_of(base_folder: str, folder: str, out: Path, *, contrast: dict | None = None, **trainer) -> Settings:
    settings = made(base_folder, folder, **trainer)
    settings.objective.contrast = ContrastSettings(**{"weight": 1.0, "wording": "{question}", **(contrast or {})})
    settings.output_dir = str(out)
    return settings


def log_of(settings: Settings) -> list[dict]:
    return [json.loads(line) for line in Path(settings.output_dir, "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def parts(data_folder):
    model, processor = tiny_llava_with_processor()
    builder = SampleBuilder(processor, get_dialect("percent", processor), targets=[ContrastTargets("{question}")])
    return model, list(SampleDataset(load_records(data_folder, "train"), builder)), Collator(processor)


def headed(vlm):
    model = awake(vlm, **NO_PENALTY)
    objective = ObjectiveSettings(contrast=ContrastSettings(weight=1.0))
    attach_heads(model, Settings(model=ModelSettings(path="-"), objective=objective))
    return model


def test_rows_beside_records_change_no_answers_gradient(parts, tmp_path):
    vlm, samples, collate = parts
    model = headed(vlm)
    heads_of(model)["contrast"].weights = (0.0,)
    with_rows = gradients(trainer_of(model, tmp_path, collate), [collate(samples[:4])])
    own = [each[0] if isinstance(each, list) else each for each in samples[:4]]
    close(with_rows, gradients(trainer_of(awake(vlm, **NO_PENALTY), tmp_path, collate), [collate(own)]))


def test_gradient_reaches_experts_and_nothing_of_the_base(parts, tmp_path):
    vlm, samples, collate = parts
    model = headed(vlm)
    heads_of(model)["contrast"].weights = (1e3,)
    found = gradients(trainer_of(model, tmp_path, collate), [collate(samples[:6])])
    plain = gradients(trainer_of(awake(vlm, **NO_PENALTY), tmp_path, collate), [collate(samples[:6])])
    experts = [name for name in found if "down_EDF" in name]
    assert experts and all(found[n].norm() > 10 * plain[n].norm() for n in experts)
    assert all(p.grad is None for n, p in model.named_parameters() if "lynx_" not in n)
    assert only_adapter_trains(model) == sum(grad.numel() for grad in found.values())


def test_an_accumulated_step_is_the_mean_over_pairs_of_what_each_micro_batch_tells_apart(parts, tmp_path):
    vlm, samples, collate = parts
    model = headed(vlm)
    heads_of(model)["contrast"].weights = (1e4,)  # the answers' share is drowned
    trainer = trainer_of(model, tmp_path, collate)
    batches = [collate(samples[:3]), collate(samples[3:10])]  # 1 and 4 pairs
    pairs = [int(heads_of(model)["contrast"].counts(batch)) for batch in batches]
    together, alone = gradients(trainer, batches), [gradients(trainer, [batch]) for batch in batches]
    for name, grad in together.items():
        expected = sum(n * each[name] for n, each in zip(pairs, alone, strict=True)) / sum(pairs)
        torch.testing.assert_close(grad, expected, rtol=2e-2, atol=1e-2 * float(grad.abs().max()))


def test_a_run_learns_to_embed_beside_regions_and_leaves_the_base_and_the_saved_files_as_they_are(
    base_folder, data_folder, tmp_path
):
    chosen = {"max_steps": 30, "batch_size": 12, "learning_rate": 1e-2, "evaluate_every": 30}
    settings = settings_of(base_folder, data_folder, tmp_path / "run", contrast={"temperature": 0.1}, **chosen)
    settings.objective.retention_kl = 0.1
    card = run(settings)
    rows = [row for row in log_of(settings) if "loss" in row]
    assert sum(row["contrast"] for row in rows[-5:]) < 0.7 * sum(row["contrast"] for row in rows[:5])
    assert [row["eval_contrast"] for row in log_of(settings) if "eval_loss" in row] and card["base_hash_unchanged"]
    adapter = Path(settings.output_dir, "adapter")
    with safe_open(adapter / FILE, "pt") as file:
        assert not list(file.keys()) and json.loads(file.metadata()["plain"])["contrast"]["wording"] == "{question}"
    base = AutoModelForImageTextToText.from_pretrained(base_folder).eval().requires_grad_(False)
    inputs = {"input_ids": torch.tensor([[1, *[3] * 16, 40, 41]]), "pixel_values": torch.ones(1, 3, 32, 32)}
    expected = base(**inputs).logits
    model = load_adapter(base, adapter)
    with model.disable_adapter():
        assert torch.equal(model(**inputs).logits, expected)


SHORT = {"batch_size": 6, "max_steps": 4, "save_every": 2, "log_every": 1, "learning_rate": 1e-2}


def test_a_resumed_run_has_the_bits_of_one_that_never_stopped(base_folder, data_folder, tmp_path, monkeypatch):
    whole, halves = (settings_of(base_folder, data_folder, tmp_path / name, **SHORT) for name in ("one", "two"))
    for each in (whole, halves):
        each.objective.regions = RegionsSettings(weight=0.1, contrast=0.0, matching=0.0)
        each.data.kinds = ["grounding", "understanding"]
    resumes_to_the_bits(whole, halves, monkeypatch, stop=3, resumed_from="checkpoint-2")


@pytest.mark.parametrize(
    "more",
    [
        {"data": {"pack_tokens": 128}},
        {"data": {"packing": "sequence", "pack_tokens": 192}},
        {"prefix_cache": "decoder", "adapter": {"layers": "upper_half"}},
    ],
    ids=["by picture", "sequence", "cached"],
)
def test_packing_and_the_prefix_cache_change_no_term(base_folder, data_folder, tmp_path, more):
    # One step over the same pairs: 12 pictures.
    plain = settings_of(base_folder, data_folder, tmp_path / "plain", max_steps=1, batch_size=24)
    other = settings_of(base_folder, data_folder, tmp_path / "other", max_steps=1, batch_size=24, **more)
    other.trainer.cache_dir = str(tmp_path / "cache")
    for each in (plain, other):
        run(each)
    first, second = (log_of(each)[0] for each in (plain, other))
    for name in ("answer_loss", "contrast"):
        assert second[name] == pytest.approx(first[name], rel=1e-4)


def test_records_without_pairs_are_refused_before_a_step(base_folder, tmp_path):
    records, pictures = written_records(0, 4)
    folder = str(write_folder(tmp_path / "data", [([r for r in records if r["kind"] == "grounding"], pictures)]))
    with pytest.raises(RecordError, match="anything for objective 'contrast'") as why:
        run(settings_of(base_folder, folder, tmp_path / "run", max_steps=1))
    assert "speaks of no place" in why.value.why


def test_a_wording_of_nothing_is_refused():
    with pytest.raises(ConfigError, match="wording is empty"):
        ContrastSettings(wording=" ")


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["none", "zero2", "zero3", "fsdp2"])
def test_two_processes_tell_apart_what_one_does_on_the_joint_batch(base_folder, data_folder, tmp_path, sharding):
    asked = ("objective=grounding", "+objective/extra=contrast", "objective.contrast.weight=1", "trainer.save_every=0")
    one = train(1, 8, tmp_path / "one", base_folder, data_folder, *asked)
    two = train(2, 4, tmp_path / "two", base_folder, data_folder, *asked, f"sharding={sharding}")
    assert two["base_hash_unchanged"] and one["base"]["sha256_after"] == two["base"]["sha256_after"]
    logs = [
        [json.loads(line) for line in (tmp_path / n / "log.jsonl").read_text().splitlines()] for n in ("one", "two")
    ]
    assert logs[1][0]["contrast"] == pytest.approx(logs[0][0]["contrast"], rel=1e-3) and logs[0][0]["contrast"] > 0
    first, second = (load_file(tmp_path / name / "adapter/adapter_model.safetensors") for name in ("one", "two"))
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=2e-2, atol=5e-4)
