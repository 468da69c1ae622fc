"""`lynx-moe bench`: what it writes, and that what it measures is the same computation on every path."""

import json
import math

import pytest
import torch

from lynx_moe import cli
from lynx_moe.bench import block
from lynx_moe.bench.timing import compare, in_turn
from tests.data.written import small_folder, stepwise_folder

PATHS = {"dense", "eager", "batched_mm", "grouped_mm", "plain_loop"}
TINY = ("--width", "32", "--ffn-width", "64", "--repeats", "2", "--seconds", "0", "--threads", "1")


def run(path, *arguments: str) -> dict:
    assert cli.main(["bench", *arguments, "--json", str(path)]) == 0
    return json.loads(path.read_text())


def test_block_writes_a_row_for_every_case_pass_and_path(tmp_path):
    found = run(tmp_path / "b.json", "block", "--tokens", "1", "9", "--experts", "2", "4", *TINY)
    seen = {}
    for row in found["rows"]:
        assert row["rounds"] >= 2 and math.isfinite(row["ratio_to_dense"]) and row["ratio_to_dense"] > 0
        assert row["ratio_low"] <= row["ratio_to_dense"] <= row["ratio_high"]
        case = (row["tokens"], row["experts"], row["dtype"], row["pass"])
        seen.setdefault(case, set()).add(row["path"])
    assert len(seen) == 2 * 2 * 2 * 2 and {case[3] for case in seen} == {"forward", "forward+backward"}
    for (_, experts, _, _), paths in seen.items():
        assert paths - PATHS == {"lynx:shared" if experts == 2 else "lynx:grouped"} and paths >= PATHS


def test_copies_of_weights_that_would_not_fit_are_left_out_and_named(tmp_path, monkeypatch):
    monkeypatch.setattr(block, "LARGEST_COPY", 10_000)
    found = run(tmp_path / "b.json", "block", "--tokens", "9", "--experts", "4", "--dtypes", "float32", *TINY)
    assert "batched_mm" not in {row["path"] for row in found["rows"]}
    assert [(left["path"], left["tokens"]) for left in found["left_out"]] == [("batched_mm", 9)]


def test_ffn_that_cannot_be_divided_is_refused_before_anything_is_timed(tmp_path):
    assert cli.main(["bench", "block", "--experts", "2", "5", *TINY, "--json", str(tmp_path / "b.json")]) == 1
    assert "5 experts" in json.loads((tmp_path / "b.json").read_text())["error"]["what"]


@pytest.mark.parametrize("num_experts", [2, 4])
def test_every_rival_computes_what_our_block_computes(num_experts):
    torch.manual_seed(0)
    branch = block._branch(32, num_experts, 16, torch.float32, torch.device("cpu"))
    dense = block.DenseFFN(32, 32, torch.float32, torch.device("cpu"))
    ways = block._ways(branch, dense, [], {"tokens": 9})
    x_TD, f_TD, _ = block._inputs(9, branch.router_ED)
    ours = branch.speak(x_TD, f_TD).y_TD
    for path in PATHS - {"dense"}:
        torch.testing.assert_close(ways[path](x_TD, f_TD), ours, rtol=1e-4, atol=1e-5, msg=path)
    assert sum(p.numel() for p in dense.parameters()) == branch.top_k * 3 * 32 * 16  # the active FLOPs, per token


def test_rounds_run_all_ways_on_the_same_input_and_begin_with_another_each_time():
    said, inputs = [], iter(range(100))
    ways = {name: lambda given, name=name: said.append((given, name)) for name in "ab"}
    taken = in_turn(ways, lambda: next(inputs), repeats=3, seconds=0, warm_up=1)
    assert said == [(0, "a"), (0, "b"), (1, "b"), (1, "a"), (2, "a"), (2, "b"), (3, "b"), (3, "a")]
    assert {name: len(seconds) for name, seconds in taken.items()} == {"a": 3, "b": 3}


def test_ratio_is_the_median_of_each_rounds_own():
    # The machine was ten times slower in the last round: medians of the seconds would say 5.
    assert compare({"a": [1.0, 1.0, 10.0], "b": [2.0, 5.0, 20.0]}, to="a")["b"]["ratio"] == 2.0


def test_step_names_both_sizes_and_the_ratio(tmp_path):
    found = run(
        tmp_path / "s.json", "step", "--rows", "1", "--repeats", "1", "--seconds", "0", "--layers", "upper_half"
    )
    (row,) = found["rows"]
    assert row["layers"] == "upper_half" and row["blocks"] > 0 and row["ratio_to_lora"] > 0
    assert abs(row["lora_trainable"] / row["trainable"] - 1) < 0.05


QUICK = ("--repeats", "1", "--seconds", "0", "--threads", "1", "--precision", "fp32", "--batch", "2")


@pytest.mark.slow
def test_stepwise_times_the_same_records_in_every_way(tmp_path):
    folder = stepwise_folder(tmp_path / "data")
    found = run(tmp_path / "s.json", "stepwise", "--data", str(folder), *QUICK)
    rows = {row["way"]: row for row in found["rows"]}
    assert {name: row["rows"] for name, row in rows.items()} == {"faithful": 9, "packed": 3, "packed_segments": 3}
    assert rows["packed"]["tokens"] < rows["packed_segments"]["tokens"] < rows["faithful"]["tokens"]
    assert found["setting"]["records"] == 3 and found["setting"]["steps_per_record"] == 3
    assert all(row["records_per_second"] > 0 and row["ratio_to_faithful"] > 0 for row in rows.values())


@pytest.mark.slow
def test_packing_times_the_same_tokens_in_every_way(tmp_path):
    folder = small_folder(tmp_path / "data")
    sizes = ("--pack-tokens", "300", "--data", str(folder))
    found = run(tmp_path / "p.json", "packing", *sizes, *QUICK)
    rows = {row["way"]: row for row in found["rows"]}
    assert list(rows) == ["random", "by_length", "picture", "sequence"] and found["left_out"] == []
    assert rows["sequence"]["rows"] < rows["picture"]["rows"] < rows["random"]["rows"] == found["setting"]["records"]
    assert rows["sequence"]["tokens"] < rows["random"]["tokens"]
    for row in rows.values():
        assert row["tokens_per_second"] == pytest.approx(found["setting"]["useful"] / row["seconds"])
        assert 0 <= row["padding"] < 1


def test_data_without_what_is_to_be_measured_is_refused(tmp_path):
    folder = small_folder(tmp_path / "data")
    assert cli.main(["bench", "packing", "--data", str(folder), "--split", "nowhere", *QUICK]) == 1


@pytest.mark.slow
def test_block_is_not_slower_than_a_plain_loop(tmp_path):
    sizes = ("--width", "512", "--ffn-width", "1408", "--repeats", "9", "--seconds", "3", "--threads", "1")
    found = run(tmp_path / "b.json", "block", "--tokens", "256", "1024", "--experts", "4", "8", *sizes)
    ratios = {}
    for row in found["rows"]:
        case = (row["tokens"], row["experts"], row["dtype"], row["pass"])
        ratios.setdefault(case, {})[row["path"].split(":")[0]] = row["ratio_to_dense"]
    slower = {case: paths for case, paths in ratios.items() if paths["lynx"] > 1.3 * paths["plain_loop"]}
    assert not slower


@pytest.mark.slow
def test_cache_writes_how_many_times_faster_epochs_and_a_sweep_are(tmp_path):
    tiny = ("--records", "16", "--batch-size", "8", "--rounds", "2", "--strengths", "1", "--epochs", "1")
    found = run(tmp_path / "b.json", "cache", *tiny, "--threads", "1")
    assert [row["what"] for row in found["rows"]] == ["epoch", "sweep"]
    for row in found["rows"]:
        assert row["seconds"] > 0 and row["faster"] == pytest.approx(row["seconds"] / row["cached_seconds"], rel=0.5)
    # A state per token of at least the picture's 64, 160 wide, in float32.
    assert found["bytes_per_record"] > 64 * 160 * 4


@pytest.mark.slow
def test_export_times_the_folded_model_beside_the_live_one_and_the_base(tmp_path):
    tiny = ("--rows", "1", "--new-tokens", "2", "--repeats", "1", "--seconds", "0", "--threads", "1")
    found = run(tmp_path / "e.json", "export", "--routes", "dense", *tiny)
    assert [(row["route"], row["pass"]) for row in found["rows"]] == [("dense", "forward"), ("dense", "generate")]
    for row in found["rows"]:
        assert row["tokens_per_second"] > 0 and row["ratio_to_live"] > 0
        # One more expert as wide as the FFN in every layer: the FFN's three matrices count twice, nothing else.
        assert 1.2 < row["flops_to_base"] < 2
        assert row["over_flops"] == pytest.approx(row["ratio_to_base"] / row["flops_to_base"])


@pytest.mark.slow
def test_export_times_every_route_and_names_what_a_base_cannot_take(tmp_path):
    tiny = ("--rows", "1", "--new-tokens", "2", "--repeats", "1", "--seconds", "0", "--threads", "1")
    found = run(tmp_path / "e.json", "export", *tiny)
    assert {row["route"] for row in found["rows"]} == {"dense", "native", "code"} and found["left_out"] == []
    assert all(("flops_to_base" in row) == (row["route"] == "dense") for row in found["rows"])
