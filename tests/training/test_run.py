"""Whole runs with the real Trainer on a tiny LLaVA: what they write, refuse and promise."""

import copy
import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from lynx_moe.errors import CheckpointError, ConfigError, DivergedError, OutputExistsError, RecordError
from lynx_moe.objectives.attached import FILE
from lynx_moe.training import preparing, run
from lynx_moe.training import trainer as trainer_module
from lynx_moe.training.hashing import hash_base
from lynx_moe.training.schedule import warmup_cosine
from lynx_moe.training.settings import Settings


def losses(settings: Settings) -> dict[int, float]:
    rows = (json.loads(line) for line in Path(settings.output_dir, "log.jsonl").read_text().splitlines())
    return {row["step"]: row["loss"] for row in rows if "loss" in row}


@pytest.fixture(scope="module")
def finished(tmp_path_factory, base_folder, data_folder):
    """One finished run, for the tests that only look at it."""
    from lynx_moe.training.settings import DataSettings, ModelSettings, ObjectiveSettings, TrainerSettings

    settings = Settings(
        model=ModelSettings(path=base_folder),
        data=DataSettings(folder=data_folder),
        trainer=TrainerSettings(
            max_steps=40,
            batch_size=8,
            learning_rate=2e-2,
            log_every=1,
            save_every=0,
            progress=False,
            precision="fp32",
        ),
        objective=ObjectiveSettings(retention_kl=0.1),
        output_dir=str(tmp_path_factory.mktemp("finished")),
    )
    return settings, run(settings)


def test_run_writes_adapter_card_and_log_and_no_litter(finished):
    settings, card = finished
    assert sorted(p.name for p in Path(settings.output_dir).iterdir()) == [
        "adapter", "blocks.jsonl", "blocks.png", "log.jsonl", "run.json", "settings.json", "tensorboard",
    ]  # fmt: skip
    assert {p.name for p in Path(settings.output_dir, "adapter").iterdir()} >= {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    assert json.loads(Path(settings.output_dir, "run.json").read_text()) == card


def test_training_lowers_the_answer_loss(finished):
    settings, card = finished
    by_step = losses(settings)
    assert by_step[40] < 0.7 * by_step[1]
    assert card["train"]["steps"] == 40 and card["train"]["last_answer_loss"] > 0


def test_base_is_byte_for_byte_what_it_was(finished, base_folder):
    _, card = finished
    fresh = hash_base(AutoModelForImageTextToText.from_pretrained(base_folder))
    assert card["base_hash_unchanged"] is True
    assert card["base"]["sha256_before"] == card["base"]["sha256_after"] == fresh.digest
    assert card["base"]["tensors"] == fresh.tensors


def test_saved_adapter_holds_the_trained_experts_and_the_fitted_gate(finished, base_folder):
    settings, _ = finished
    model = PeftModel.from_pretrained(
        AutoModelForImageTextToText.from_pretrained(base_folder), Path(settings.output_dir, "adapter")
    )
    state = model.state_dict()
    downs = [v for k, v in state.items() if "down_EDF" in k]
    assert downs and all(d.abs().sum() > 0 for d in downs)
    assert [bool(v) for k, v in state.items() if k.endswith("fitted")] == [True]


def test_card_says_what_was_run_on_what(finished, data_folder):
    settings, card = finished
    assert card["settings"]["trainer"]["max_steps"] == 40 and card["settings"]["objective"]["retention_kl"] == 0.1
    assert card["data"]["records"] == {"find_one": 12, "identify": 12} and len(card["data"]["manifest_sha256"]) == 64
    assert {"torch", "transformers", "peft", "lynx_moe"} <= set(card["versions"])
    assert card["dead_parameters"] == []


def test_prompt_gate_is_fitted_first_and_measured_on_prompts_it_did_not_see(finished):
    gate = finished[1]["prompt_gate"]
    assert gate["fitted"] and gate["train_error"] == 0.0
    assert gate["held_out_prompts"] > 0 and 0.0 <= gate["held_out_error"] <= 1.0
    assert {"held_out_false_open", "held_out_false_shut"} <= set(gate)


def test_card_shows_how_the_gates_stand_on_both_kinds_of_prompts(finished):
    gates = finished[1]["gates"]
    assert len(gates) == 2  # every other of four layers
    for block in gates.values():
        assert 0 < block["grounding_gate"] < 1 and 0 < block["understanding_gate"] < 1
        assert sum(block["expert_share"]) == pytest.approx(1, abs=1e-3) and len(block["expert_share"]) == 4


def test_finished_run_is_refused_and_stays_as_it_is(finished):
    settings, card = finished
    with pytest.raises(OutputExistsError):
        run(settings)
    assert json.loads(Path(settings.output_dir, "run.json").read_text()) == card


def test_same_seed_gives_the_same_run_and_another_seed_another_and_overwrite_replaces_it(settings):
    seen = []
    for seed in (0, 0, 1):
        chosen = settings(max_steps=2)
        chosen.seed, chosen.overwrite = seed, True
        assert run(chosen)["settings"]["seed"] == seed
        seen.append(losses(chosen))
    assert seen[0] == seen[1] != seen[2]


class Interrupted(Exception):
    pass


def stop_at(step: int, patched: pytest.MonkeyPatch) -> None:
    """Makes training end by an exception before it takes the step after `step`."""
    take = trainer_module.LynxTrainer.training_step

    def interrupted(self, *args, **kwargs):
        if self.state.global_step == step:
            raise Interrupted
        return take(self, *args, **kwargs)

    patched.setattr(trainer_module.LynxTrainer, "training_step", interrupted)


def resumes_to_the_bits(whole: Settings, halves: Settings, monkeypatch, *, stop: int, resumed_from: str) -> None:
    """Runs `whole`, and `halves` with an interruption: log, adapter and heads are the same bytes."""
    run(whole)
    with monkeypatch.context() as patched, pytest.raises(Interrupted):
        stop_at(stop, patched)
        run(halves)
    assert run(halves)["train"]["resumed_from"] == resumed_from
    for name in ("log.jsonl", "adapter/adapter_model.safetensors", f"adapter/{FILE}"):
        assert Path(whole.output_dir, name).read_bytes() == Path(halves.output_dir, name).read_bytes(), name


@pytest.fixture
def stopped(settings, monkeypatch):
    """Settings of a run that was interrupted after its fourth step, one after a checkpoint."""
    chosen = settings(max_steps=4, save_every=3)
    with monkeypatch.context() as patched, pytest.raises(Interrupted):
        stop_at(3, patched)
        run(chosen)
    return chosen


def test_checkpoint_of_another_adapter_other_data_or_another_base_is_refused_before_the_first_step(
    stopped, settings, tmp_path, data_folder, base_folder, monkeypatch
):
    def never(*args, **kwargs):
        raise AssertionError("a step was taken")

    monkeypatch.setattr(trainer_module.LynxTrainer, "training_step", never)
    stopped.trainer.resume = "always"
    data, base = (
        Path(shutil.copytree(path, tmp_path / name)) for path, name in ((data_folder, "d"), (base_folder, "b"))
    )
    (data / "manifest.json").write_text('{"finished": true, "made": "again"}')
    weights = load_file(base / "model.safetensors")
    changed = {name: value + float(name.endswith("lm_head.weight")) for name, value in weights.items()}
    save_file(changed, base / "model.safetensors", metadata={"format": "pt"})
    for name, value, words in (
        ("adapter.layers", [1], "another adapter: target_modules was"),
        ("adapter.num_experts", 3, "another adapter: num_experts was 4, is 3"),
        ("data.folder", str(data), "other data"),
        ("model.path", str(base), "another base: sha256 was"),
    ):
        other = copy.deepcopy(stopped)
        group, key = name.split(".")
        setattr(getattr(other, group), key, value)
        with pytest.raises(CheckpointError, match=words) as caught:
            run(other)
        assert "overwrite=true" in caught.value.fix
        assert [p.name for p in Path(other.output_dir, "checkpoints").iterdir()] == ["checkpoint-3"]


def test_always_goes_on_with_another_learning_rate_from_the_next_step_on(stopped):
    stopped.trainer.learning_rate, stopped.trainer.resume = 5e-4, "always"
    card = run(stopped)
    rows = [json.loads(line) for line in Path(stopped.output_dir, "log.jsonl").read_text().splitlines()]
    rate = {row["step"]: row["learning_rate"] for row in rows if "learning_rate" in row}
    assert card["train"]["resumed_from"] == "checkpoint-3" and sorted(rate) == [1, 2, 3, 4]
    # Logged is the rate of the step just made: a cosine to 0 at its middle.
    assert rate[4] == pytest.approx(5e-4 * warmup_cosine(3.5 / 4, 0.03))


def test_nothing_of_a_checkpoint_is_a_pickle(stopped):
    files = {p.name for p in Path(stopped.output_dir, "checkpoints/checkpoint-3").iterdir()}
    assert {Path(name).suffix for name in files} == {".safetensors", ".json", ".md"}
    assert {"optimizer.safetensors", "process-0.safetensors", "scheduler.json", "manifest.json"} <= files


def test_prompt_gate_is_not_fitted_again_and_the_card_tells_of_the_first_fitting(settings, monkeypatch):
    chosen = settings(max_steps=2, save_every=1, adapter={"prompt_gate": "auto"})
    with monkeypatch.context() as patched, pytest.raises(Interrupted):
        stop_at(1, patched)
        run(chosen)
    monkeypatch.setattr(preparing, "fit_on_records", None)
    assert run(chosen)["prompt_gate"]["held_out_prompts"] > 0
    saved = load_file(Path(chosen.output_dir, "adapter/adapter_model.safetensors"))
    assert [bool(value) for name, value in saved.items() if name.endswith("fitted")] == [True]


def test_checkpoints_hold_the_adapter_only_and_the_oldest_go(settings):
    chosen = settings(max_steps=6, save_every=2, keep=2)
    run(chosen)
    checkpoints = Path(chosen.output_dir, "checkpoints")
    assert sorted(p.name for p in checkpoints.iterdir()) == ["checkpoint-4", "checkpoint-6"]
    files = {p.name for p in (checkpoints / "checkpoint-6").iterdir()}
    assert "adapter_model.safetensors" in files and not files & {"model.safetensors", "training_args.bin"}


def test_run_stops_in_time_and_counts_as_finished(settings):
    card = run(settings(max_steps=100_000, max_seconds=0.5))
    assert card["train"]["stopped_by_time"] and 1 <= card["train"]["steps"] < 1000
    assert card["train"]["last_learning_rate"] < 0.5 * card["settings"]["trainer"]["learning_rate"]


def test_changed_base_fails_the_run_and_publishes_nothing(settings, monkeypatch):
    step = trainer_module.LynxTrainer.training_step

    def vandal(self, *args, **kwargs):
        with torch.no_grad():
            self.model.get_base_model().lm_head.weight[0, 0] += 1
        return step(self, *args, **kwargs)

    chosen = settings(max_steps=1)
    monkeypatch.setattr(trainer_module.LynxTrainer, "training_step", vandal)
    with pytest.raises(CheckpointError, match="lm_head.weight"):
        run(chosen)
    assert not Path(chosen.output_dir, "adapter").exists() and not Path(chosen.output_dir, "run.json").exists()


def test_diverged_run_publishes_nothing(settings):
    # Only the last step's update breaks it: no router ever reads those weights, so the last look at them must see it.
    chosen = settings(max_steps=1, learning_rate=float("inf"), warmup=0.0, max_grad_norm=0.0)
    with pytest.raises(DivergedError, match="of block .* is not finite after optimiser step 1"):
        run(chosen)
    assert not Path(chosen.output_dir, "adapter").exists()


def test_data_without_grounding_is_refused(settings):
    with pytest.raises(RecordError, match="no grounding record"):
        run(settings(max_steps=1, data={"kinds": ["understanding"]}))


def test_missing_base_and_missing_folder_are_named(settings):
    chosen = settings(max_steps=1)
    chosen.model.path = "pkg://lynx_moe/no_such_folder"
    with pytest.raises(ConfigError, match="holds no model"):
        run(chosen)
    chosen = settings(max_steps=1, data={"folder": "???"})
    with pytest.raises(ConfigError, match="data.folder"):
        run(chosen)


def test_packed_rows_train_too(settings):
    card = run(settings(max_steps=2, retention_kl=1.0, data={"pack_tokens": 120}))
    assert card["train"]["steps"] == 2 and card["train"]["last_retention_kl"] >= 0


def test_sixteen_bit_base_is_trained_with_float32_experts_and_stays_as_it_was(settings, tmp_path):
    chosen = settings(max_steps=1, precision="bf16")
    chosen.model.dtype = "bfloat16"
    card = run(chosen)
    assert card["base_hash_unchanged"]
    saved = load_file(Path(chosen.output_dir, "adapter/adapter_model.safetensors"))
    assert {v.dtype for v in saved.values() if v.is_floating_point()} == {torch.float32}
