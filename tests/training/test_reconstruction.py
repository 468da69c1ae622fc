"""Reconstruction in trainings: one gradient however a step is cut, nothing of it in what answers, exact resume."""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from lynx_moe.adapter import LynxConfig
from lynx_moe.data import Collator, SampleBuilder, SampleDataset, load_records
from lynx_moe.errors import CheckpointError, ConfigError, FamilyError, RecordError
from lynx_moe.families.dialects import get_dialect
from lynx_moe.objectives.attached import FILE, attach_objectives, is_head, read_heads
from lynx_moe.objectives.reconstruction import PictureTargets, Reconstruction
from lynx_moe.training import run
from lynx_moe.training.heads import attach_heads
from lynx_moe.training.method import only_adapter_trains
from lynx_moe.training.objective_settings import ReconstructionSettings, RegionsSettings
from lynx_moe.training.settings import ModelSettings, ObjectiveSettings, Settings
from tests.data.written import write_folder
from tests.objectives.vae import tiny_vae
from tests.tiny import tiny_llava, tiny_llava_with_processor
from tests.training.conftest import made
from tests.training.test_data_parallel import two_agree_with_one
from tests.training.test_objectives import in_other_ways, with_phrases
from tests.training.test_run import Interrupted, resumes_to_the_bits, stop_at
from tests.training.test_trainer import NO_PENALTY, awake, close, gradients, trainer_of

SMALL = {"weight": 1.0, "tokenizer": "pixels", "fold": 2, "width": 16, "heads": 2, "depth": 2}


@pytest.fixture(scope="module")
def picture_folder(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("pictures")
    write_folder(folder, [with_phrases(12, 5)], split="validation")
    return str(write_folder(folder, [with_phrases(0, 12)]))


def settings_of(base_folder: str, folder: str, out: Path, *, own: dict | None = None, **trainer) -> Settings:
    settings = made(base_folder, folder, **trainer)
    settings.objective.reconstruction = ReconstructionSettings(**{**SMALL, **(own or {})})
    settings.output_dir = str(out)
    return settings


@pytest.fixture(scope="module")
def parts(picture_folder):
    model, processor = tiny_llava_with_processor()
    builder = SampleBuilder(processor, get_dialect("percent", processor), targets=[PictureTargets(2)])
    return model, list(SampleDataset(load_records(picture_folder, "train"), builder)), Collator(processor)


def headed(vlm, **own):
    """A model with awake experts, and a head that no longer tells nothing."""
    model = awake(vlm, **NO_PENALTY)
    objective = ObjectiveSettings(reconstruction=ReconstructionSettings(**{**SMALL, **own}))
    attach_heads(model, Settings(model=ModelSettings(path="-"), objective=objective))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if is_head(name):
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def rows_of(settings: Settings) -> list[dict]:
    return [json.loads(line) for line in Path(settings.output_dir, "log.jsonl").read_text().splitlines()]


# ---- the gradient ----


def test_accumulated_gradient_of_experts_and_head_is_that_of_the_joint_batch(parts, tmp_path):
    vlm, samples, collate = parts
    trainer = trainer_of(headed(vlm, predict="regress"), tmp_path, collate)  # without draws, which no two batches share
    joint = gradients(trainer, [collate(samples[:7])])
    pieces = gradients(trainer, [collate(samples[:1]), collate(samples[1:2]), collate(samples[2:7])])
    assert all(grad.any() for name, grad in joint.items() if is_head(name))
    close(joint, pieces, rtol=1e-3, atol=1e-5)


def test_denoising_reaches_experts_and_head_and_nothing_of_the_base(parts, tmp_path):
    vlm, samples, collate = parts
    model = headed(vlm)
    model.base_model.lynx_heads["reconstruction"].weights = (1e3,)  # so that the answer's own gradient is drowned
    with_head = gradients(trainer_of(model, tmp_path, collate), [collate(samples[:6])])
    without = gradients(trainer_of(awake(vlm, **NO_PENALTY), tmp_path, collate), [collate(samples[:6])])
    experts = [name for name in with_head if "down_EDF" in name]
    assert experts and all(with_head[n].norm() > 10 * without[n].norm() for n in experts)
    assert all(p.grad is None for n, p in model.named_parameters() if "lynx_" not in n)
    assert only_adapter_trains(model) == sum(g.numel() for g in with_head.values())


# ---- whole runs ----


@pytest.fixture(scope="module")
def finished(base_folder, picture_folder, tmp_path_factory):
    chosen = {"max_steps": 30, "batch_size": 8, "learning_rate": 1e-2, "evaluate_every": 15}
    settings = settings_of(base_folder, picture_folder, tmp_path_factory.mktemp("run"), **chosen)
    settings.objective.regions = RegionsSettings(weight=0.1)
    return settings, run(settings)


def test_it_is_learned_beside_another_objective_and_measured_on_held_out_records(finished):
    settings, card = finished
    rows = [row["reconstruction"] for row in rows_of(settings) if "loss" in row]
    assert rows[0] == pytest.approx(1, abs=0.1) and sum(rows[-5:]) / 5 < 0.8 * rows[0]
    assert card["dead_parameters"] == [] and card["base_hash_unchanged"]
    first, *_, last = [row["eval_reconstruction"] for row in rows_of(settings) if "eval_loss" in row]
    assert last < first


def test_nothing_of_it_is_in_the_adapter_and_adapter_off_gives_the_bases_bits(finished, base_folder):
    settings, _ = finished
    adapter = Path(settings.output_dir, "adapter")
    assert not [n for n in load_file(adapter / "adapter_model.safetensors") if is_head(n) or "reconstruction" in n]
    with safe_open(adapter / FILE, "pt") as file:
        own = json.loads(file.metadata()["plain"])["reconstruction"]
        kept = [name for name in file.keys() if "reconstruction" in name]
    assert own["fold"] == 2 and len(own["goes_with"]["the tokenizer Pixels"]) == 64
    assert kept and {name.split(".")[3] for name in kept} == {"net"}
    base = AutoModelForImageTextToText.from_pretrained(base_folder).eval()
    ids = torch.tensor([[1, *[3] * 16, 40, 41, 42]])
    inputs = {"input_ids": ids, "pixel_values": torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))}
    expected = base(**inputs).logits
    model = PeftModel.from_pretrained(base, adapter)
    with model.disable_adapter():
        assert torch.equal(model(**inputs).logits, expected)
    assert not torch.equal(model(**inputs).logits, expected)


def test_what_answers_has_no_head_and_exports_hold_none(finished, tmp_path):
    from lynx_moe.export import export
    from lynx_moe.loading import load

    settings, _ = finished
    loaded = load(settings.output_dir)
    assert not [name for name, _ in loaded.model.named_modules() if "reconstruction" in name]
    export(loaded.model, loaded.processor, tmp_path / "out", route="adapter")
    written = [p for p in (tmp_path / "out").rglob("*") if p.is_file()]
    assert written and not [p for p in written if p.name == FILE or b"reconstruction" in p.read_bytes()]
    assert not Reconstruction.serves


def test_the_sheet_of_a_run_shows_its_pictures_told_again(finished, picture_folder, tmp_path):
    from lynx_moe.reconstruction_sheet import GAP, sheet

    settings, _ = finished
    page, lost = sheet(Path(settings.output_dir), Path(picture_folder), pictures=3)
    assert page.size == (4 * (8 + GAP), 3 * (8 + GAP)) and 0 < lost["own"] < 1 and lost["another"] > 0
    again, _ = sheet(Path(settings.output_dir), Path(picture_folder), pictures=3)
    assert page.tobytes() == again.tobytes()


def test_a_sheet_needs_another_picture(finished, picture_folder):
    from lynx_moe.reconstruction_sheet import sheet

    settings, _ = finished
    for pictures in (0, 1):
        with pytest.raises(RecordError, match=f"{pictures} pictures"):
            sheet(Path(settings.output_dir), Path(picture_folder), pictures=pictures)


def test_a_run_without_the_head_has_no_sheet(base_folder, picture_folder, tmp_path):
    from lynx_moe.reconstruction_sheet import sheet

    settings = made(base_folder, picture_folder, max_steps=1)
    settings.objective.regions = RegionsSettings(weight=0.1)
    settings.output_dir = str(tmp_path)
    run(settings)
    with pytest.raises(CheckpointError, match="no reconstruction head"):
        sheet(tmp_path, Path(picture_folder))


def test_a_head_with_another_tokenizer_than_it_was_trained_with_is_refused(finished):
    settings, _ = finished
    _, own = read_heads(Path(settings.output_dir, "adapter"))
    own["reconstruction"]["goes_with"] = {"the tokenizer Pixels": "0" * 64}
    with pytest.raises(CheckpointError, match="trained with 0000"):
        attach_objectives(get_peft_model(tiny_llava()[0], LynxConfig(prompt_gate="on", expert_width=8)), own)


def test_a_run_does_not_go_on_with_another_tokenizer_under_the_same_name(
    base_folder, picture_folder, tmp_path, monkeypatch
):
    own = {"tokenizer": "vae", "path": tiny_vae(tmp_path / "vae"), "fold": 1}
    short = {"batch_size": 8, "max_steps": 4, "save_every": 2}
    settings = settings_of(base_folder, picture_folder, tmp_path / "run", own=own, **short)
    with monkeypatch.context() as patched, pytest.raises(Interrupted):
        stop_at(3, patched)
        run(settings)
    tiny_vae(tmp_path / "vae", scaling_factor=3.0)
    with pytest.raises(CheckpointError, match="the tokenizer KL has sha256"):
        run(settings)


def test_resumed_run_draws_the_noise_of_one_that_never_stopped(base_folder, picture_folder, tmp_path, monkeypatch):
    short = {"batch_size": 8, "max_steps": 6, "save_every": 3, "evaluate_every": 2, "learning_rate": 1e-2}
    # The second run finds its latents on disk, and need not even load the VAE.
    own = {"tokenizer": "vae", "path": tiny_vae(tmp_path / "vae"), "fold": 1, "cache_dir": str(tmp_path / "latents")}
    whole, halves = (
        settings_of(base_folder, picture_folder, tmp_path / name, own=own, **short) for name in ("one", "two")
    )
    resumes_to_the_bits(
        whole, halves, monkeypatch, stop=5, resumed_from="checkpoint-4"
    )  # that of the lowest held-out loss


@pytest.mark.slow
@in_other_ways
def test_goes_with_packing_prefix_cache_and_baselines(base_folder, picture_folder, tmp_path, more):
    settings = settings_of(base_folder, picture_folder, tmp_path / "run", max_steps=2, batch_size=4, **more)
    settings.trainer.cache_dir = str(tmp_path / "cache")
    for _ in range(2 if "prefix_cache" in more else 1):
        settings.overwrite = True
        run(settings)
        assert all(row["reconstruction"] > 0 for row in rows_of(settings) if "loss" in row)


@pytest.mark.slow
@pytest.mark.parametrize("stepwise", ["faithful", "packed"])
def test_goes_with_steps(base_folder, tmp_path, stepwise):
    from tests.data.written import stepwise_folder

    settings = settings_of(base_folder, str(stepwise_folder(tmp_path / "data")), tmp_path / "run", max_steps=2)
    settings.objective.stepwise = stepwise
    run(settings)
    assert all(row["reconstruction"] > 0 for row in rows_of(settings) if "loss" in row)


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["none", "zero3", "fsdp2"])
def test_two_processes_train_experts_and_head_as_one_does_on_the_joint_batch(
    base_folder, picture_folder, tmp_path, sharding
):
    asked = ("objective=grounding", "+objective/extra=reconstruction", "objective.reconstruction.predict=regress",
             "objective.reconstruction.tokenizer=pixels", "objective.reconstruction.fold=4",
             "trainer.save_every=0", "trainer.log_every=1")  # fmt: skip
    two_agree_with_one(tmp_path, base_folder, picture_folder, asked, sharding)


# ---- bad input ----


def test_records_without_pictures_are_refused_before_a_step(base_folder, tmp_path):
    records, pictures = with_phrases(0, 4)
    blind = [each | {"image_id": "", "boxes": [], "answer": "no"} for each in records]
    folder = str(write_folder(tmp_path / "data", [(blind, pictures)]))
    with pytest.raises(RecordError, match="anything for objective 'reconstruction'") as caught:
        run(settings_of(base_folder, folder, tmp_path / "run", max_steps=1))
    assert "a picture" in caught.value.why


def test_base_without_a_grid_is_refused_by_name(base_folder, picture_folder, tmp_path, monkeypatch):
    from lynx_moe.families import picture_grid

    monkeypatch.setattr(picture_grid, "GRIDS", {})
    with pytest.raises(FamilyError, match="LlavaProcessor"):
        run(settings_of(base_folder, picture_folder, tmp_path / "run", max_steps=1))


@pytest.mark.parametrize(
    ("own", "what"),
    [
        ({"width": 100, "heads": 16}, "width=64"),
        ({"through_decoder": True}, "predict=regress"),
        ({"predict": "guess"}, "denoise"),
        ({"draws": 0}, "at least 1"),
    ],
)
def test_settings_that_nothing_can_honour_are_refused(own, what):
    with pytest.raises(ConfigError) as caught:
        ReconstructionSettings(**{**SMALL, **own})
    assert what in str(caught.value)


def test_an_unknown_tokenizer_is_refused_with_the_nearest_name(base_folder, picture_folder, tmp_path):
    with pytest.raises(ConfigError, match="no picture tokenizer called 'pixel'") as caught:
        run(settings_of(base_folder, picture_folder, tmp_path / "run", own={"tokenizer": "pixel"}, max_steps=1))
    assert "'pixels'" in caught.value.fix
