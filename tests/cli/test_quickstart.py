"""The quickstart's own judgement, and (slow) the whole road on an untrained tiny base."""

import copy
import json

import pytest

from lynx_moe.errors import ConfigError, OutputExistsError
from lynx_moe.quickstart import claim, missed_bars, quickstart, quickstart_settings
from tests.tiny import tiny_llava_with_processor

GOOD = {
    "grounding": {"before": {"acc50": 0.0}, "after": {"acc50": 0.75}},
    "retention": {
        "before": 0.8,
        "by_gate": {"on": {"accuracy": 0.79}},
        "adapter_off_identical": True,
        "shut_gate_identical": True,
    },
    "training": {"prompt_gate": {"held_out_error": 0.005}},
    "seconds": 800.0,
    "base_hash_unchanged": True,
    "export": {"routes": {"code": {"loaded_without_lynx_moe": True}, "native": {"loaded_without_lynx_moe": True}}},
}


def test_nothing_is_missed_when_every_promise_came_true():
    assert missed_bars(GOOD) == []


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("grounding", "after", "acc50"), 0.05, "Acc@0.5"),
        (("grounding", "after", "acc50"), None, "Acc@0.5"),
        (("grounding", "before", "acc50"), 0.2, "Acc@0.5 before"),
        (("retention", "by_gate", "on", "accuracy"), 0.7, "retention fell"),
        (("retention", "shut_gate_identical"), False, "shut gate"),
        (("training", "prompt_gate"), {"fitted": False}, "unseen wordings"),
        (("seconds",), 1000.0, "1000 s"),
        (("retention", "adapter_off_identical"), False, "bit for bit"),
        (("base_hash_unchanged",), False, "tensors changed"),
        (("export", "routes", "native", "loaded_without_lynx_moe"), False, "native export"),
    ],
)
def test_each_broken_promise_is_named(path, value, words):
    report = copy.deepcopy(GOOD)
    place = report
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    (missed,) = missed_bars(report)
    assert words in missed


def test_settings_are_those_of_the_experiment_with_overrides_on_top(tmp_path):
    settings = quickstart_settings(tmp_path, ["trainer.max_steps=7"])
    assert settings.trainer.max_steps == 7
    assert settings.output_dir == str(tmp_path / "run") and settings.data.folder == str(tmp_path / "data")
    with pytest.raises(ConfigError):
        quickstart_settings(tmp_path, ["trainer.max_stepz=7"])


def test_finished_results_are_not_replaced_unasked_and_data_is_kept(tmp_path):
    claim(tmp_path, overwrite=False)
    (tmp_path / "data").mkdir()
    (tmp_path / "report.json").write_text("{}")
    (tmp_path / "evaluations" / "old.json").write_text("{}")
    with pytest.raises(OutputExistsError):
        claim(tmp_path, overwrite=False)
    assert (tmp_path / "evaluations" / "old.json").exists()
    claim(tmp_path, overwrite=True)
    assert (tmp_path / "data").exists() and not (tmp_path / "report.json").exists()
    assert list((tmp_path / "evaluations").iterdir()) == []


@pytest.mark.slow
def test_whole_road_runs_and_keeps_its_exact_promises_even_on_a_base_that_learns_nothing(tmp_path):
    model, processor = tiny_llava_with_processor()
    model.save_pretrained(tmp_path / "base")
    processor.save_pretrained(tmp_path / "base")
    small = ["trainer.max_steps=2", "trainer.batch_size=4", f"model.path={tmp_path / 'base'}"]
    small += ["adapter.layers=all"]  # the tiny base has fewer than the pocket base
    small += ['data.make.train=["source=rendered","size=6"]', 'data.make.validation=["source=rendered","size=4"]']
    report = quickstart(tmp_path / "out", overrides=small, limit=12)
    assert report["retention"]["adapter_off_identical"] and report["base_hash_unchanged"]
    assert report["export"]["loaded_without_lynx_moe"] and report["export"]["max_abs_logit_diff"] < 1e-3
    # Two steps teach nothing, and six pictures have too few wordings for the gate: the report says so, and no more.
    assert not report["ok"]
    missed = report["missed"]
    assert len(missed) == 2 and missed[0].startswith("Acc@0.5 after") and missed[1].startswith("the prompt gate errs")
    assert json.loads((tmp_path / "out" / "report.json").read_text())["missed"] == report["missed"]
    assert (tmp_path / "out" / "answers.png").read_bytes().startswith(b"\x89PNG")
