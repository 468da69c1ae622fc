"""Distillation in trainings: what learns, what is saved, what a second run computes."""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from transformers import AutoModelForImageTextToText

from lynx_moe.data import Collator, SampleBuilder, SampleDataset, load_records
from lynx_moe.errors import CheckpointError, ConfigError
from lynx_moe.families.dialects import get_dialect
from lynx_moe.objectives.attached import FILE, heads_of, is_head
from lynx_moe.objectives.distil import Distil
from lynx_moe.training import run
from lynx_moe.training.distil_settings import DistilSettings, HighTeacherSettings, TeacherSettings
from lynx_moe.training.heads import attach_heads, target_makers
from lynx_moe.training.objective_settings import ObjectiveSettings
from lynx_moe.training.settings import ModelSettings, Settings
from tests.data.written import write_folder
from tests.objectives.teachers.tiny_teachers import dinov2
from tests.objectives.teachers.tiny_teachers import made as made_teacher
from tests.tiny import tiny_llava_with_processor
from tests.training.conftest import made
from tests.training.test_data_parallel import two_agree_with_one
from tests.training.test_masks import WORD, outlined
from tests.training.test_run import Interrupted, resumes_to_the_bits, stop_at
from tests.training.test_trainer import NO_PENALTY, awake, close, gradients, trainer_of


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> str:
    return made_teacher(tmp_path_factory.mktemp("teacher") / "dinov2", dinov2)


def distil_of(teacher: str, cache: Path, **more) -> DistilSettings:
    return DistilSettings(
        weight=1.0, cache_dir=str(cache), low_teacher=TeacherSettings(kind="backbone", path=teacher),
        high_teacher=HighTeacherSettings(kind="backbone", path=teacher, layer=1), **more,
    )  # fmt: skip


def settings_of(base_folder: str, folder: str, out: Path, teacher: str, **trainer) -> Settings:
    settings = made(base_folder, folder, **trainer)
    settings.objective.distil = distil_of(teacher, out.parent / "teachers")
    settings.output_dir = str(out)
    return settings


@pytest.fixture(scope="module")
def parts(data_folder, teacher, tmp_path_factory):
    model, processor = tiny_llava_with_processor()
    objective = ObjectiveSettings(distil=distil_of(teacher, tmp_path_factory.mktemp("cache"), high=1.0))
    objective.masks.weight, objective.masks.word = 1e-9, WORD  # its map is there; its own terms say nothing here
    settings = Settings(model=ModelSettings(path="-"), objective=objective)
    makers = target_makers(settings, processor)
    builder = SampleBuilder(processor, get_dialect("percent", processor), targets=makers)
    samples = list(SampleDataset(load_records(data_folder, "train"), builder))

    def headed():
        adapted = awake(model, **NO_PENALTY)
        attach_heads(adapted, settings, processor)
        return adapted

    return headed, samples, Collator(processor)


def test_gradient_reaches_experts_and_heads_and_is_the_joint_batchs_however_a_step_is_cut(parts, tmp_path):
    headed, samples, collate = parts
    model = headed()
    trainer = trainer_of(model, tmp_path, collate)
    joint = gradients(trainer, [collate(samples[:7])])
    pieces = gradients(trainer, [collate(samples[:1]), collate(samples[1:2]), collate(samples[2:7])])
    close(joint, pieces, rtol=1e-3, atol=1e-5)
    told = [name for name in joint if "heads.distil" in name or "heads.masks.upsampling" in name]
    assert len(told) >= 4 and all(joint[name].any() for name in told)
    assert any("down_EDF" in name and joint[name].any() for name in joint)
    assert all(p.grad is None for n, p in model.named_parameters() if "lynx_" not in n)


def test_neither_model_nor_optimiser_knows_the_teacher(parts):
    headed, _, _ = parts
    model = headed()
    names = [name for name, _ in model.named_parameters() if is_head(name) and ".distil." in name]
    assert {name.split(".distil.")[1].split(".")[0] for name in names} == {"projections"}
    distil = heads_of(model)["distil"]
    held = {id(p) for p in model.parameters()}
    teachers = [own._teacher or own.kind(own.folder) for own in distil.taught.values()]
    assert not any(id(p) in held or p.requires_grad for own in teachers for p in own.model.parameters())
    assert not [m for m in model.modules() if type(m).__name__.startswith("Dinov2")]


@pytest.fixture(scope="module")
def finished(base_folder, data_folder, teacher, tmp_path_factory):
    out = tmp_path_factory.mktemp("distilled") / "run"
    settings = settings_of(
        base_folder, data_folder, out, teacher, max_steps=20, batch_size=8, learning_rate=1e-2, evaluate_every=10
    )
    return settings, run(settings)


def rows_of(settings: Settings) -> list[dict]:
    return [json.loads(line) for line in Path(settings.output_dir, "log.jsonl").read_text().splitlines()]


def test_the_term_falls_and_the_base_and_its_bits_stay(finished, base_folder):
    settings, card = finished
    rows = [row["distil_low"] for row in rows_of(settings) if "loss" in row]
    assert sum(rows[-3:]) < 0.8 * sum(rows[:3]) and card["base_hash_unchanged"]
    base = AutoModelForImageTextToText.from_pretrained(base_folder).eval()
    inputs = {"input_ids": torch.tensor([[1, *[3] * 16, 40, 41]]), "pixel_values": torch.rand(1, 3, 32, 32)}
    expected = base(**inputs).logits
    model = PeftModel.from_pretrained(base, Path(settings.output_dir, "adapter"))
    with model.disable_adapter():
        assert torch.equal(model(**inputs).logits, expected)


def test_nothing_of_the_teacher_is_saved_and_nothing_of_the_head_is_loaded_to_answer(finished):
    from lynx_moe.loading import load

    settings, _ = finished
    with safe_open(Path(settings.output_dir, "adapter", FILE), "pt") as file:
        assert {name.split("heads.distil.")[1] for name in file.keys()} == {
            "projections.low.weight", "projections.low.bias",
        }  # fmt: skip
    assert not heads_of(load(settings.output_dir).model)


def test_a_second_run_computes_no_feature_and_gives_the_same_bits(
    finished, base_folder, data_folder, teacher, monkeypatch
):
    settings, _ = finished
    from lynx_moe.objectives.teachers.base import Teacher

    again = settings_of(
        base_folder, data_folder, Path(settings.output_dir).with_name("again"), teacher, max_steps=20, batch_size=8,
        learning_rate=1e-2, evaluate_every=10,
    )  # fmt: skip
    monkeypatch.setattr(Teacher, "__init__", lambda *args, **more: pytest.fail("the teacher was loaded"))
    run(again)
    for name in ("log.jsonl", f"adapter/{FILE}", "adapter/adapter_model.safetensors"):
        assert Path(settings.output_dir, name).read_bytes() == Path(again.output_dir, name).read_bytes(), name


def test_resumed_run_has_the_bits_of_one_that_never_stopped(base_folder, data_folder, teacher, tmp_path, monkeypatch):
    short = {"batch_size": 8, "max_steps": 6, "save_every": 3, "log_every": 2, "learning_rate": 1e-2}
    whole, halves = (settings_of(base_folder, data_folder, tmp_path / name, teacher, **short) for name in ("a", "b"))
    resumes_to_the_bits(whole, halves, monkeypatch, stop=4, resumed_from="checkpoint-3")


def test_a_run_does_not_go_on_with_another_teacher_in_the_same_place(base_folder, data_folder, tmp_path, monkeypatch):
    one = made_teacher(tmp_path / "teacher", dinov2)
    settings = settings_of(base_folder, data_folder, tmp_path / "run", one, max_steps=4, save_every=2, batch_size=8)
    with monkeypatch.context() as patched, pytest.raises(Interrupted):
        stop_at(3, patched)
        run(settings)
    Path(one, "model.safetensors").write_bytes(other_weights(Path(one, "model.safetensors").read_bytes()))
    with pytest.raises(CheckpointError, match="the low_teacher has sha256"):
        run(settings)


def other_weights(saved: bytes) -> bytes:
    """A safetensors file with its last weights turned round."""
    return saved[:-64] + saved[-64:][::-1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [
        {"data": {"pack_tokens": 96}},
        {"data": {"packing": "sequence", "pack_tokens": 128}},
        {"prefix_cache": "decoder", "adapter": {"layers": "upper_half"}},
        {"data": {"workers": 1}},
    ],
    ids=["packed by picture", "packed by sequence", "prefix cache", "data workers"],
)
def test_goes_with_packing_prefix_cache_and_workers(base_folder, data_folder, teacher, tmp_path, more):
    settings = settings_of(base_folder, data_folder, tmp_path / "run", teacher, max_steps=2, batch_size=4, **more)
    settings.trainer.cache_dir = str(tmp_path / "cache")
    run(settings)
    assert all(row["distil_low"] > 0 for row in rows_of(settings) if "loss" in row)


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["none", "zero3", "fsdp2"])
def test_two_processes_are_taught_both_maps_as_one_is_on_the_joint_batch(base_folder, teacher, tmp_path, sharding):
    folder = str(write_folder(tmp_path / "data", [outlined(0, 8)]))
    asked = (
        "+objective/extra=[masks,distil]", f"objective.masks.word={WORD!r}", "objective.masks.channels=8",
        "objective.distil.high=1", f"objective.distil.cache_dir={tmp_path / 'teachers'}", "trainer.save_every=0",
        *(f"objective.distil.{level}_teacher.{what}" for level in ("low", "high")
          for what in ("kind=backbone", f"path={teacher}")),
    )  # fmt: skip
    two_agree_with_one(tmp_path, base_folder, folder, asked, sharding, batch=6)


def test_settings_without_a_teacher_or_with_nothing_to_learn_are_refused():
    with pytest.raises(ConfigError, match="objective.distil.low has no teacher"):
        DistilSettings(weight=1.0)
    with pytest.raises(ConfigError, match="both of its levels weigh 0"):
        DistilSettings(weight=1.0, low=0.0)
    with pytest.raises(ConfigError, match="high_teacher.kind"):
        HighTeacherSettings(kind="sam")


def test_the_upsampled_map_is_refused_before_a_step_where_masks_are_off(base_folder, data_folder, teacher, tmp_path):
    settings = settings_of(base_folder, data_folder, tmp_path / "run", teacher, max_steps=1)
    settings.objective.distil.high = 1.0
    with pytest.raises(ConfigError, match="objective.masks is off"):
        run(settings)


def test_distil_answers_nothing():
    assert not Distil.serves
