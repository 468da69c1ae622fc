"""The loss on held-out records: what it is, that training does not notice, and that the best step is kept."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from lynx_moe.adapter import LynxConfig, set_gate
from lynx_moe.adapter.attaching import attach_adapter
from lynx_moe.data import Collator, SampleBuilder, SampleDataset, load_records
from lynx_moe.errors import CheckpointError, ConfigError, RecordError
from lynx_moe.families.dialects import get_dialect
from lynx_moe.training import run
from lynx_moe.training.evaluating import HeldOut
from lynx_moe.training.loss import AnswerLoss
from lynx_moe.training.settings import TrainerSettings
from tests.tiny import tiny_llava_with_processor


@pytest.fixture(scope="module")
def parts(data_folder):
    vlm, processor = tiny_llava_with_processor()
    torch.manual_seed(3)
    model = attach_adapter(vlm, LynxConfig(layers="all"))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "down_EDF" in name:
                parameter.normal_(std=0.2)
    builder = SampleBuilder(processor, get_dialect("percent", processor))
    return model, SampleDataset(load_records(data_folder, "validation"), builder), Collator(processor)


def test_it_is_the_loss_of_all_records_together_however_they_are_cut_into_batches(parts):
    model, samples, collate = parts
    loss = AnswerLoss(model, retention_kl=0.5)
    batch = collate(list(samples))
    with torch.no_grad(), set_gate(model.eval(), True):
        expected = loss(model, batch, loss.counts(batch))
    for batch_size in (3, 4, 100):
        found = HeldOut(samples, collate, batch_size).measure(model, loss, Accelerator(cpu=True))
        assert found["eval_loss"] == pytest.approx(expected.loss.item(), rel=1e-5)
        for name in ("answer_loss", "retention_kl"):
            assert found[f"eval_{name}"] == pytest.approx(expected.terms[name].item(), rel=1e-4)
    assert found["eval_retention_kl"] > 1e-3


def test_processes_divide_the_records_and_keep_step(parts):
    model, samples, collate = parts

    class Rank:
        device = torch.device("cpu")
        num_processes = 3

        def __init__(self, index: int):
            self.process_index = index

    rounds = [list(HeldOut(samples, collate, 2)._batches(Rank(index))) for index in range(3)]
    # Ten records: 4, 3, 3; in batches of two that is two rounds for everybody.
    assert [[counted for counted, _ in each] for each in rounds] == [[1, 1]] * 3
    assert [sum(len(batch["input_ids"]) for _, batch in each) for each in rounds] == [4, 3, 3]
    uneven = [list(HeldOut(samples, collate, 1)._batches(Rank(index))) for index in range(3)]
    assert [[counted for counted, _ in each] for each in uneven] == [[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 1, 0]]


def test_nothing_notices_that_it_was_measured(parts):
    model, samples, collate = parts
    model.train()
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()

    def drawing(batch):
        random.random(), np.random.rand(), torch.rand(3)
        return collate(batch)

    HeldOut(samples, drawing, 4).measure(model, AnswerLoss(model), Accelerator(cpu=True))
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    assert before[:2] == after[:2] and torch.equal(before[2], after[2])
    assert model.training and all(p.grad is None for p in model.parameters())


def test_training_is_the_same_with_and_without_it_and_the_best_step_can_be_published(settings):
    # Retention outweighs the answers, and the rate rises to the end: the best step is not the last.
    chosen = {"max_steps": 6, "batch_size": 8, "save_every": 1, "keep": 1, "learning_rate": 0.05, "warmup": 1.0}
    chosen["retention_kl"] = 30.0
    plain, watched = settings(**chosen), settings(**chosen, evaluate_every=2, publish="best")
    for each, name in ((plain, "plain"), (watched, "watched")):
        each.output_dir += name
        card = run(each)
    rows = [json.loads(line) for line in Path(watched.output_dir, "log.jsonl").read_text().splitlines()]
    measured = {row["step"]: row["eval_loss"] for row in rows if "eval_loss" in row}
    best = min(measured, key=measured.get)
    assert list(measured) == [2, 4, 6] and best != 6, measured
    assert (card["train"]["best_step"], card["train"]["published_step"]) == (best, best)
    assert card["train"]["best_eval_loss"] == measured[best]
    checkpoints = Path(watched.output_dir, "checkpoints")
    assert sorted(p.name for p in checkpoints.iterdir()) == sorted([f"checkpoint-{best}", "checkpoint-6"])

    def weights(folder: Path) -> dict:
        return load_file(folder / "adapter_model.safetensors")

    published, of_best = weights(Path(watched.output_dir, "adapter")), weights(checkpoints / f"checkpoint-{best}")
    assert all(torch.equal(published[name], of_best[name]) for name in of_best)
    # The last step is that of the run that never measured.
    last, of_plain = weights(checkpoints / "checkpoint-6"), weights(Path(plain.output_dir, "adapter"))
    assert all(torch.equal(last[name], of_plain[name]) for name in last)
    log = [json.loads(line) for line in Path(plain.output_dir, "log.jsonl").read_text().splitlines()]
    assert log == [row for row in rows if "eval_loss" not in row]


def test_best_that_was_torn_is_not_published(settings, monkeypatch):
    from lynx_moe.training import running

    chosen = settings(max_steps=2, evaluate_every=1, publish="best")
    take = running.take_best

    def torn(trainer):
        (trainer.best_checkpoint() / "adapter_model.safetensors").write_bytes(b"")
        take(trainer)

    monkeypatch.setattr(running, "take_best", torn)
    with pytest.raises(CheckpointError, match="is torn") as caught:
        run(chosen)
    assert "trainer.publish=last" in caught.value.fix and not Path(chosen.output_dir, "adapter").exists()


@pytest.mark.parametrize("other", [{"evaluate_every": 0}, {"evaluate_every": 5, "keep_best": False}])
def test_best_needs_to_be_measured_and_kept(other):
    with pytest.raises(ConfigError, match="trainer.publish"):
        TrainerSettings(publish="best", **other)


def test_held_out_records_must_be_there_and_ask_for_boxes(settings):
    with pytest.raises(RecordError, match="no split 'nothing'"):
        run(settings(max_steps=1, evaluate_every=1, data={"held_out": "nothing"}))
