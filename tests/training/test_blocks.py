"""What blocks report while a model trains, against sums made by hand; and the file and the picture it ends in."""

import json
import math
import sys

import numpy as np
import pytest
import torch

from lynx_moe.adapter import record_routing, set_gate
from lynx_moe.data import Collator, SampleBuilder, SampleDataset, load_records
from lynx_moe.families.dialects import get_dialect
from lynx_moe.training import heat_map
from lynx_moe.training.blocks import BlockFile, BlockTelemetry, over_all, read_rows, scalars
from lynx_moe.training.loss import forward_inputs
from tests.tiny import tiny_llava_with_processor
from tests.training.test_trainer import awake, trainer_of


@pytest.fixture(scope="module")
def parts(data_folder):
    model, processor = tiny_llava_with_processor()
    builder = SampleBuilder(processor, get_dialect("percent", processor))
    samples = list(SampleDataset(load_records(data_folder, "train"), builder, traced=True))
    return model, samples, Collator(processor)


def seen_by(trainer, batches):
    trainer.current_gradient_accumulation_steps = len(batches)
    counts = trainer._get_num_items_in_batch(batches, torch.device("cpu"))
    for batch in batches:
        trainer.training_step(trainer.model, dict(batch), counts)
    return trainer._blocks.read(lambda sums: sums)


def test_numbers_are_those_of_the_tokens_that_are_no_padding(parts, tmp_path):
    vlm, samples, collate = parts
    model = awake(vlm)
    batch = collate(samples[:5])
    there = batch["attention_mask"].bool().flatten()
    assert not there.all()
    found = seen_by(trainer_of(model, tmp_path, collate), [batch])
    model.eval()
    with torch.no_grad(), set_gate(model, True), record_routing(model) as routing:
        model(**forward_inputs(batch))
    assert found.keys() == routing.keys()
    for name, seen in routing.items():
        gate, experts = seen["gate"][there], seen["experts_TK"][there]
        used = np.bincount(experts.flatten().numpy(), minlength=4)
        share = used[used > 0] / used.sum()
        assert found[name]["tokens"] == int(there.sum())
        assert found[name]["gate"] == pytest.approx(gate.mean().item(), rel=1e-5)
        assert found[name]["open"] == pytest.approx((gate.amax(1) > 0.5).float().mean().item())
        assert found[name]["experts"] == pytest.approx((used / int(there.sum())).tolist())
        assert found[name]["entropy"] == pytest.approx(-(share * np.log(share)).sum(), rel=1e-5)
        assert found[name]["dead"] == (used == 0).sum()


@pytest.mark.parametrize("how", ["pieces", "reentrant", "non_reentrant"])
def test_micro_batches_add_up_and_recomputation_is_not_counted(parts, tmp_path, how):
    vlm, samples, collate = parts
    chosen = samples[:6]
    whole = seen_by(trainer_of(awake(vlm), tmp_path, collate), [collate(chosen)])
    model = awake(vlm)
    if how != "pieces":
        model.get_base_model().activation_checkpointing_enable({"use_reentrant": how == "reentrant"})
        model.enable_input_require_grads()
    cut = [chosen] if how != "pieces" else [chosen[:1], chosen[1:]]
    other = seen_by(trainer_of(model, tmp_path, collate), [collate(each) for each in cut])
    for name, block in whole.items():
        assert block["tokens"] == other[name]["tokens"] and block["dead"] == other[name]["dead"]
        assert block["experts"] == pytest.approx(other[name]["experts"], abs=1e-3)
        for key in ("gate", "open", "entropy"):
            assert block[key] == pytest.approx(other[name][key], rel=1e-3, abs=1e-3)


def test_reading_begins_anew_and_processes_are_added():
    telemetry = BlockTelemetry()
    used = torch.tensor([4.0, 0.0])
    one = {"tokens": torch.tensor(4.0), "gate": torch.tensor(1.0), "open": torch.tensor(2.0), "used_E": used}
    telemetry.add({"a": one})
    assert telemetry.read(lambda sums: 2 * sums)["a"] == {
        "gate": 0.25, "open": 0.5, "experts": [1.0, 0.0], "entropy": 0.0, "dead": 1, "tokens": 8,
    }  # fmt: skip
    assert telemetry.read(lambda sums: sums) == {} and over_all({}) == {}
    telemetry.add({"a": {**one, "used_E": torch.tensor([2.0, 2.0])}})
    block = telemetry.read(lambda sums: sums)
    assert block["a"]["entropy"] == pytest.approx(math.log(2)) and over_all(block)["dead_experts"] == 0
    assert scalars(block)["block/a/expert_1"] == 0.5 and "block/a/tokens" not in scalars(block)


def test_rows_of_an_interrupted_run_make_way_and_a_torn_line_is_passed_over(tmp_path):
    path = tmp_path / "blocks.jsonl"
    rows = [json.dumps({"step": step, "blocks": {}}) for step in (1, 2, 3)]
    path.write_text("\n".join(rows) + '\n{"step": 4, "blo')
    assert [row["step"] for row in read_rows(path)] == [1, 2, 3]
    file = BlockFile(path)
    file.write(3, {"a": {"gate": 1.0}}, since=2)
    file.write(4, {}, since=2)
    assert [row["step"] for row in read_rows(path)] == [1, 2, 3, 4] and read_rows(path)[2]["blocks"]
    BlockFile(path).write(1, {}, since=0)
    assert [row["step"] for row in read_rows(path)] == [1]


def rows_of(layers: int, steps: list[int], gate: float = 0.25) -> list[dict]:
    block = {"gate": gate, "entropy": 0.0, "experts": [1.0, 1.0]}
    return [{"step": step, "blocks": {f"m.layers.{k}.mlp": block for k in range(layers)}} for step in steps]


def test_heat_map_is_drawn_also_of_constant_values_and_not_of_one_step(tmp_path):
    path = tmp_path / "blocks.png"
    assert heat_map.draw_heat_map(rows_of(2, [1, 10, 20], gate=0.0), path) == ""
    assert path.read_bytes()[:4] == b"\x89PNG"
    assert heat_map.draw_heat_map(rows_of(3, [1]), tmp_path / "none.png") == ""
    assert [p.name for p in tmp_path.iterdir()] == ["blocks.png"]


def test_many_steps_are_averaged_in_groups_that_end_where_the_run_ends():
    steps = np.arange(1, 2 * heat_map.COLUMNS + 2)
    ends, means = heat_map.grouped(steps, np.stack([steps * 1.0, steps * 0 + 2.0]))
    assert len(ends) <= heat_map.COLUMNS and ends[-1] == steps[-1] and means.shape == (2, len(ends))
    assert means[0, 0] == pytest.approx(steps[: int(ends[0])].mean()) and (means[1] == 2.0).all()


def test_without_matplotlib_there_is_no_picture_and_no_failure(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert "lynx-moe[report]" in heat_map.draw_heat_map(rows_of(2, [1, 2]), tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


def test_names_lose_what_all_of_them_share():
    assert heat_map.short(["a.layers.0.mlp", "a.layers.12.mlp"]) == ["0", "12"]
    assert heat_map.short(["x.1.ffn", "y.1.moe"]) == ["x.1.ffn", "y.1.moe"] and heat_map.short(["a.b"]) == ["a.b"]
