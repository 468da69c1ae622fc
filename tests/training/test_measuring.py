"""A run that measures itself: the numbers of `evaluate`, the base asked once for all runs that share its answers."""

import json
from pathlib import Path

import pytest

from lynx_moe.data import load_records
from lynx_moe.errors import RecordError
from lynx_moe.evaluation import compare, evaluate
from lynx_moe.loading import load
from lynx_moe.training import measuring, run
from lynx_moe.training.settings import EvaluationSettings
from lynx_moe.training.sweeping import objectives


def plain(result: dict) -> dict:
    return {key: value for key, value in result.items() if key not in ("samples", "seconds")}


@pytest.fixture
def measured(settings, tmp_path):
    def make(name: str, evaluation: dict | None = None, **changes):
        chosen = settings(max_steps=2, learning_rate=5e-2, **changes)
        chosen.evaluation = EvaluationSettings(**{"split": "validation", **(evaluation or {})})
        chosen.output_dir = str(tmp_path / name)
        return chosen

    return make


def test_numbers_are_those_that_evaluate_gives_on_the_reloaded_run(measured, data_folder):
    chosen = measured("run")
    card = run(chosen)
    written = json.loads(Path(chosen.output_dir, "run.json").read_text())["evaluation"]
    answers = json.loads(Path(chosen.output_dir, "evaluation.json").read_text())
    loaded, records = load(chosen.output_dir), load_records(data_folder, "validation")
    after = evaluate(loaded.model, loaded.processor, records, loaded.dialect, progress=False)
    with loaded.model.disable_adapter():
        before = evaluate(loaded.model, loaded.processor, records, loaded.dialect, progress=False)
    assert answers["after"]["samples"] == after["samples"] != before["samples"] == answers["before"]["samples"]
    for when, result in {"before": before, "after": after}.items():
        assert plain(written[when]) == plain(json.loads(json.dumps(result)))
    change = compare(before, after)
    assert written["change"] == {key: value for key, value in change.items() if key != "flips"}
    assert written["n"] == len(records) and written["gate"] == "auto"
    assert objectives(card) == (after["grounding"]["acc50"], after["retention"]["accuracy"])


def test_base_is_asked_once_and_its_answers_are_shared(measured, tmp_path, monkeypatch):
    asked = []

    def counting(model, *rest, **more):
        asked.append(model)
        return evaluate(model, *rest, **more)

    monkeypatch.setattr(measuring, "evaluate", counting)
    shared = {"base_answers": str(tmp_path / "base")}
    first = run(measured("a", shared))["evaluation"]
    assert len(asked) == 2
    second = run(measured("b", shared, adapter={"gate_sparsity": 1.0}))["evaluation"]
    assert len(asked) == 3 and second["before"] == first["before"]
    # Other questions are other answers.
    run(measured("c", {**shared, "limit": 4}))
    assert len(asked) == 5 and len(list((tmp_path / "base").glob("*.json"))) == 2


def test_a_torn_file_is_nobodys_answer(tmp_path):
    file = tmp_path / "base" / "a.json"
    made = measuring.shared(file, lambda: {"samples": [1]})
    assert made == measuring.shared(file, lambda: {"samples": [2]}) == {"samples": [1]}
    file.write_text(file.read_text()[:-5])
    assert measuring.shared(file, lambda: {"samples": [3]}) == {"samples": [3]}
    assert measuring.shared(file, lambda: {"samples": [4]}) == {"samples": [3]}


def test_a_split_that_is_not_there_stops_the_run_before_it_trains(measured):
    chosen = measured("run", {"split": "test"})
    with pytest.raises(RecordError, match="no split 'test'"):
        run(chosen)
    assert not list(Path(chosen.output_dir).rglob("*.safetensors"))
