"""A router that is not finite stops a run, by its name and the step at which it began."""

import json
import re
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from lynx_moe.adapter import lynx_layers
from lynx_moe.errors import DivergedError
from lynx_moe.training import run
from lynx_moe.training import trainer as trainer_module
from lynx_moe.training.finite import NumberWatch


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


def watched(*micro_batches, **rest) -> NumberWatch:
    """Each micro-batch is (step, name to the rows whose router is fine, loss)."""
    watch = NumberWatch(Accelerator(cpu=True), lambda row: f"record{row}")
    for step, routers, loss in micro_batches:
        blocks = {name: {"finite_T": torch.tensor(fine).repeat_interleave(2)} for name, fine in routers.items()}
        ids = torch.zeros(2, 4, dtype=torch.long)
        rows = torch.tensor([[10 * step, -1], [10 * step + 1, 10 * step + 2]])
        watch.see(step, blocks, {"loss": torch.tensor(loss)}, {"input_ids": ids, "record_rows": rows, **rest})
    return watch


BOTH, NONE, SECOND_BAD = [True, True], [False, False], [True, False]


def test_the_first_step_counts_and_the_lowest_block_of_it_and_the_rows_concerned():
    fine = (1, {"low": BOTH, "middle": BOTH, "high": BOTH}, 1.0)
    watched(fine).refuse()
    watch = watched(
        fine,
        (2, {"low": BOTH, "middle": SECOND_BAD, "high": SECOND_BAD}, torch.nan),
        (3, {"low": NONE, "middle": NONE, "high": NONE}, torch.nan),
    )
    with pytest.raises(DivergedError, match="router of middle .* step 2, and 1 routers") as caught:
        watch.refuse()
    # Packed rows hold several records; only rows that some router could not read are named.
    assert "are record21, record22" in caught.value.why


def test_a_loss_is_named_with_its_micro_batch_when_all_routers_were_fine():
    one, two = (4, {"low": BOTH}, 1.0), (4, {"low": BOTH}, torch.inf)
    with pytest.raises(DivergedError, match=r"the loss \(loss\) .* step 4") as caught:
        watched(one, two).refuse()
    assert "record40, record41, record42" in caught.value.why


def test_a_gradient_is_named_with_its_block_before_the_optimiser_writes_it(settings, monkeypatch):
    steps = []

    class Poisoned(trainer_module.LynxTrainer):
        def _clip_grad_norm(self, model):
            if self.state.global_step == 1:
                block = lynx_layers(self.model)["model.language_model.layers.2.mlp"]
                block.lynx_branch.default.down_EDF.grad[0, 0, 0] = torch.nan
            steps.append([p.detach().clone() for p in self.model.parameters() if p.requires_grad])
            self.kept = steps[-1]
            Poisoned.last = self
            return super()._clip_grad_norm(model)

    monkeypatch.setattr("lynx_moe.training.running.LynxTrainer", Poisoned)
    chosen = settings(max_steps=4, log_every=4, save_every=1, batch_size=3)
    with pytest.raises(
        DivergedError, match=r"down_EDF, of block model\.language_model\.layers\.2\.mlp, .* step 2"
    ) as why:
        run(chosen)
    ids = re.findall(r"'(\d+/(?:find|what))'", why.value.why)
    assert len(ids) == 3
    trained = [p for p in Poisoned.last.model.parameters() if p.requires_grad]
    assert all(torch.equal(now, before) for now, before in zip(trained, steps[-1], strict=True))
    assert [p.name for p in Path(chosen.output_dir, "checkpoints").iterdir()] == ["checkpoint-1"]


def test_the_record_with_a_broken_picture_is_named_alone(settings, monkeypatch):
    class Poisoned(trainer_module.LynxTrainer):
        def training_step(self, model, inputs, *rest):
            if self.state.global_step == 1:
                Poisoned.row = inputs["record_rows"][1].tolist()
                pixels = inputs["pixel_values"].clone()
                pixels[1] = torch.nan
                inputs = {**inputs, "pixel_values": pixels}
            return super().training_step(model, inputs, *rest)

    monkeypatch.setattr("lynx_moe.training.running.LynxTrainer", Poisoned)
    chosen = settings(max_steps=3, log_every=3)
    with pytest.raises(DivergedError, match=r"layers\.0\.mlp .* step 2") as caught:
        run(chosen)
    kinds = ("find", "what")
    assert f"'{Poisoned.row[0] // 2}/{kinds[Poisoned.row[0] % 2]}'" in caught.value.why
    assert caught.value.why.count("/") == 1


def test_log_rows_hold_no_flag_of_the_watch(settings):
    chosen = settings(max_steps=1)
    run(chosen)
    rows = [json.loads(line) for line in Path(chosen.output_dir, "log.jsonl").read_text().splitlines()]
    assert all("finite" not in row for row in rows) and any("gate" in row for row in rows)
