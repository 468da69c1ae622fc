"""A router that is not finite stops a run, by its name and the step at which it began."""

import json
from pathlib import Path

import pytest
import torch

from lynx_moe.adapter import lynx_layers
from lynx_moe.errors import DivergedError
from lynx_moe.training import run
from lynx_moe.training import trainer as trainer_module
from lynx_moe.training.finite import RouterWatch


@pytest.mark.parametrize(("checkpointing", "accumulate"), [("off", 1), ("reentrant", 2)])
def test_the_router_and_the_step_are_named_though_numbers_are_read_later(
    settings, monkeypatch, checkpointing, accumulate
):
    class Poisoned(trainer_module.LynxTrainer):
        def training_step(self, model, *rest):
            if self.state.global_step == 2:
                with torch.no_grad():
                    lynx_layers(self.model)["model.language_model.layers.2.mlp"].lynx_branch.default.router_ED[1, 3] = (
                        torch.nan
                    )
            return super().training_step(model, *rest)

    monkeypatch.setattr("lynx_moe.training.running.LynxTrainer", Poisoned)
    # Logged at steps 1 and 5, poisoned at 3; by then every router is undefined, the one below as well.
    chosen = settings(max_steps=5, log_every=5, checkpointing=checkpointing, accumulate=accumulate)
    with pytest.raises(
        DivergedError, match=r"model\.language_model\.layers\.2\.mlp .* at optimiser step 3\n"
    ) as caught:
        run(chosen)
    assert "learning_rate" in caught.value.fix
    assert not Path(chosen.output_dir, "adapter").exists() and not Path(chosen.output_dir, "run.json").exists()


def test_undefined_inputs_are_seen_at_the_first_block_and_no_checkpoint_is_written_of_them(settings, monkeypatch):
    class Poisoned(trainer_module.LynxTrainer):
        def training_step(self, model, inputs, *rest):
            if self.state.global_step == 1:
                inputs = {**inputs, "pixel_values": inputs["pixel_values"] * torch.inf}
            return super().training_step(model, inputs, *rest)

    monkeypatch.setattr("lynx_moe.training.running.LynxTrainer", Poisoned)
    chosen = settings(max_steps=4, log_every=4, save_every=2)
    with pytest.raises(DivergedError, match=r"layers\.0\.mlp .* step 2, and 1 routers after it"):
        run(chosen)
    assert not list(Path(chosen.output_dir).rglob("adapter_model.safetensors"))


def test_the_first_step_counts_and_the_lowest_block_of_it():
    watch = RouterWatch()
    fine, bad = {"finite": torch.tensor(True)}, {"finite": torch.tensor(False)}
    watch.see({"low": fine, "middle": fine, "high": fine}, 1)
    watch.refuse()
    watch.see({"low": fine, "middle": bad, "high": bad}, 2)
    watch.see({"low": bad, "middle": bad, "high": bad}, 3)
    with pytest.raises(DivergedError, match="router of middle .* step 2, and 1 routers"):
        watch.refuse()


def test_log_rows_hold_no_flag_of_the_watch(settings):
    chosen = settings(max_steps=1)
    run(chosen)
    rows = [json.loads(line) for line in Path(chosen.output_dir, "log.jsonl").read_text().splitlines()]
    assert all("finite" not in row for row in rows) and any("gate" in row for row in rows)
