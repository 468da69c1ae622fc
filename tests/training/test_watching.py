"""What a run shows and refuses: reporters, rates, dead parameters, bad input before the first step."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lynx_moe.errors import CheckpointError, ConfigError, RecordError
from lynx_moe.training import run
from lynx_moe.training import trainer as trainer_module
from lynx_moe.training.callbacks import Progress
from tests.data.written import picture, record, write_folder
from tests.training.conftest import written_records


def rows(folder: str, name: str = "log.jsonl") -> list[dict]:
    return [json.loads(line) for line in Path(folder, name).read_text().splitlines()]


def test_every_block_reports_at_every_log_to_the_file_and_to_tensorboard(settings):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    chosen = settings(max_steps=4, log_every=2, report_to=["tensorboard"])
    run(chosen)
    logged = [row for row in rows(chosen.output_dir) if "loss" in row]
    blocks = rows(chosen.output_dir, "blocks.jsonl")
    assert [row["step"] for row in logged] == [row["step"] for row in blocks] == [1, 2, 4]
    assert all(len(row["blocks"]) == 2 for row in blocks)
    assert "tokens_per_second" not in logged[-1]  # the clock's; a resumed run writes the same bytes
    assert 0 < logged[-1]["open"] <= 1 and logged[-1]["dead_experts"] >= 0
    assert logged[-1]["gate"] == pytest.approx(sum(b["gate"] for b in blocks[-1]["blocks"].values()) / 2)
    # The history, which every checkpoint holds, does not grow with the number of blocks.
    assert not any(name.startswith("block/") for row in rows(chosen.output_dir) for name in row)
    events = EventAccumulator(str(Path(chosen.output_dir, "tensorboard"))).Reload()
    name = "model.language_model.layers.2.mlp"
    gates = [(e.step, e.value) for e in events.Scalars(f"train/block/{name}/gate")]
    assert gates == [(row["step"], pytest.approx(row["blocks"][name]["gate"])) for row in blocks]
    assert {"train/loss", "train/tokens_per_second", f"train/block/{name}/expert_3"} <= set(events.Tags()["scalars"])
    assert Path(chosen.output_dir, "blocks.png").is_file()


@pytest.mark.parametrize("checkpointing", ["off", "reentrant"])
def test_tokens_per_second_counts_real_tokens_only(settings, monkeypatch, checkpointing):
    seen = []

    class Counted(trainer_module.LynxTrainer):
        def training_step(self, model, inputs, *rest):
            seen.append(int(inputs["attention_mask"].sum()))
            return super().training_step(model, inputs, *rest)

        def _since_the_last_log(self):
            noted = self._sums["tokens"]
            assert int(noted) == sum(seen)
            seen.clear()
            return super()._since_the_last_log()

    monkeypatch.setattr("lynx_moe.training.running.LynxTrainer", Counted)
    run(settings(max_steps=2, log_every=2, accumulate=2, checkpointing=checkpointing))
    assert not seen


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_reporter_that_is_not_installed_is_refused_before_anything_is_loaded(settings, name):
    if find_spec(name):
        pytest.skip(f"{name} is installed here")
    chosen = settings(max_steps=1, report_to=["tensorboard", name])
    chosen.model.path = "pkg://lynx_moe/no_such_folder"  # which would be the next thing to fail
    with pytest.raises(ConfigError, match=f"report_to names '{name}'"):
        run(chosen)
    assert not Path(chosen.output_dir).exists()


def test_unknown_reporter_is_refused_by_its_settings(settings):
    with pytest.raises(ConfigError, match="report_to is 'tensorbord'"):
        settings(report_to=["tensorbord"])


def test_bar_shows_loss_speed_and_open_gates_and_keeps_them_when_blocks_report(capsys):
    class State:
        is_world_process_zero, max_steps, global_step = True, 2, 0

    bar = Progress()
    bar.on_train_begin(None, State, None)
    bar.on_log(None, State, None, {"loss": 1.25, "tokens_per_second": 1234.5, "open": 0.5, "gate": 0.1})
    bar.on_log(None, State, None, {"block/a/gate": 0.1})
    shown = bar._bar.postfix
    bar.on_train_end(None, State, None)
    assert shown == "loss=1.250, tokens/s=1,234, open=50%"


def test_gradients_that_the_optimiser_hides_are_no_dead_parameters(settings, monkeypatch):
    class Hidden(trainer_module.LynxTrainer):
        """As DeepSpeed does: when we are asked, it has stepped and `grad` is empty."""

        def _get_grad_norm(self, model, grad_norm=None):
            norm = super()._get_grad_norm(model, grad_norm)
            self.optimizer.step()
            self.optimizer.zero_grad()
            return norm

    monkeypatch.setattr("lynx_moe.training.running.LynxTrainer", Hidden)
    assert run(settings(max_steps=2, accumulate=2))["dead_parameters"] == []


def test_one_step_does_not_tell_which_parameters_are_dead(settings):
    assert run(settings(max_steps=1))["dead_parameters"] is None


def test_dead_parameters_are_counted_in_the_log(settings, monkeypatch):
    class Lost(trainer_module.LynxTrainer):
        def __init__(self, model, *args, **kwargs):
            next(m for n, m in model.named_modules() if n.endswith("lynx_branch.default")).lost = torch.nn.Parameter(
                torch.zeros(2)
            )
            super().__init__(model, *args, **kwargs)

    monkeypatch.setattr("lynx_moe.training.running.LynxTrainer", Lost)
    chosen = settings(max_steps=3)
    card = run(chosen)
    assert [name.rpartition(".")[2] for name in card["dead_parameters"]] == ["lost"]
    assert [row.get("dead_parameters") for row in rows(chosen.output_dir) if "loss" in row] == [None, 1, 1]


def test_records_that_cannot_be_used_are_counted_in_the_card_and_the_run_goes_on(settings, tmp_path):
    good, pictures = written_records(0, 3)
    bad = [
        record(90, id="no_box", image_id="p0", boxes=[]),
        record(91, id="long", image_id="p0", question="Find the cat. " * 200, boxes=[[1.0, 1.0, 9.0, 9.0]]),
    ]
    folder = write_folder(tmp_path / "data", [(good + bad, pictures)])
    chosen = settings(max_steps=1, data={"folder": str(folder)})
    data = run(chosen)["data"]
    assert data["left_out"] == 2 and data["left_out_why"] == {"unwritable": 1, "too_long": 1}
    chosen.overwrite, chosen.data.max_left_out = True, 0.2
    with pytest.raises(RecordError, match="2 of 8 records cannot be used"):
        run(chosen)


def test_a_picture_that_cannot_be_read_is_passed_by_and_counted(settings, tmp_path):
    good, pictures = written_records(0, 3)
    broken = picture("p9", (32, 32))
    broken["image"]["bytes"] = broken["image"]["bytes"][:60]
    rows = [*good, record(9, id="broken", image_id="p9", boxes=[[1.0, 1.0, 9.0, 9.0]])]
    folder = write_folder(tmp_path / "data", [(rows, [*pictures, broken])])
    data = run(settings(max_steps=2, batch_size=8, data={"folder": str(folder)}))["data"]
    assert data["left_out_why"] == {"unreadable": 1} and data["left_out"] == 1


def test_a_base_whose_files_lack_weights_is_refused_not_made_up(settings, base_folder, tmp_path):
    folder = tmp_path / "base"
    folder.mkdir()
    for path in Path(base_folder).iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    weights = load_file(folder / "model.safetensors")
    lost = next(name for name in weights if name.endswith("layers.1.mlp.down_proj.weight"))
    kept = {name: value for name, value in weights.items() if name != lost}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    chosen = settings(max_steps=1)
    chosen.model.path = str(folder)
    with pytest.raises(CheckpointError, match="lacks 1 of the model's tensors, .*layers.1.mlp.down_proj"):
        run(chosen)
    save_file({**kept, lost: weights[lost][:, :-1].contiguous()}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match="could not load a base"):
        run(chosen)
