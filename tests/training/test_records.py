import json
import sys
from pathlib import Path

import pytest
import yaml

from lynx_moe.errors import ConfigError, RecordError
from lynx_moe.training import records
from lynx_moe.training.records import make_missing, splits_in
from lynx_moe.training.settings import DataSettings

CONF = Path(__file__).parents[2] / "conf"
MAKE = {"train": ["source=rendered", "size=2"], "validation": ["source=rendered", "size=1"]}


@pytest.fixture
def calls(monkeypatch):
    """Stands in for the synth process: notes the command and writes the manifest that it would."""
    seen = []

    class Done:
        returncode = 0

    def call(command, **kwargs):
        seen.append(command)
        options = dict(argument.split("=", 1) for argument in command[3:])
        folder = records.Path(options["out"])
        folder.mkdir(parents=True, exist_ok=True)
        made = splits_in(folder) | {options["split"]: {"source": options["source"], "size": int(options["size"])}}
        (folder / "manifest.json").write_text(json.dumps({"finished": True, "settings": made}))
        return Done

    monkeypatch.setattr(records.subprocess, "run", call)
    return seen


def test_missing_splits_are_made_by_synth_in_a_process_of_its_own(tmp_path, calls):
    folder = tmp_path / "data"
    assert make_missing(DataSettings(folder=str(folder), make=MAKE)) == ["train", "validation"]
    assert calls[0] == [sys.executable, "-m", "synth", "source=rendered", "size=2", "split=train", f"out={folder}"]


def test_what_is_there_is_not_made_again(tmp_path, calls):
    settings = DataSettings(folder=str(tmp_path / "data"), make=MAKE)
    make_missing(settings)
    assert make_missing(settings) == [] and len(calls) == 2


def test_data_made_otherwise_is_not_taken_for_what_was_asked(tmp_path, calls):
    folder = str(tmp_path / "data")
    make_missing(DataSettings(folder=folder, make=MAKE))
    with pytest.raises(ConfigError, match="size=2"):
        make_missing(DataSettings(folder=folder, make={"train": ["source=rendered", "size=50"]}))
    assert make_missing(DataSettings(folder=folder, make=None)) == []


def test_nothing_to_make_calls_nothing(tmp_path, calls):
    assert make_missing(DataSettings(folder=str(tmp_path))) == [] and not calls


def test_failed_synth_is_an_error_with_the_command_to_try(tmp_path, monkeypatch):
    class Failed:
        returncode = 3

    monkeypatch.setattr(records.subprocess, "run", lambda *a, **k: Failed)
    with pytest.raises(RecordError, match="status 3") as caught:
        make_missing(DataSettings(folder=str(tmp_path), make=MAKE))
    assert "-m synth source=rendered size=2 split=train" in caught.value.fix


FOREIGN = ["", "[]", "{}", '{"finished": false, "settings": {"train": {}}}', '{"finished": true}']


@pytest.mark.parametrize("content", FOREIGN)
def test_unfinished_or_foreign_manifest_offers_no_split(tmp_path, content):
    (tmp_path / "manifest.json").write_text(content)
    assert splits_in(tmp_path) == {}


def made_by_experiments() -> dict[str, list[str]]:
    """What the experiments of conf/ ask synth for, each split that differs in more than its size once, and small."""
    asked = {}
    for path in sorted((CONF / "experiment").glob("*.yaml")):
        own = yaml.safe_load(path.read_text(encoding="utf-8")).get("data", {})
        for split, arguments in (own.get("make") or {}).items():
            small = sorted("size=2" if each.startswith("size=") else each for each in arguments)
            if small not in asked.values():
                asked[f"{path.stem}-{split}"] = small
    return asked


@pytest.mark.parametrize("arguments", made_by_experiments().values(), ids=made_by_experiments())
def test_what_real_synth_made_for_an_experiment_is_what_it_asks_for_again(tmp_path, arguments):
    settings = DataSettings(folder=str(tmp_path / "data"), make={"train": arguments})
    assert make_missing(settings) == ["train"] and set(splits_in(tmp_path / "data")) == {"train"}
    assert make_missing(settings) == []


@pytest.mark.parametrize(
    "task", ["find_one", "[find_one,relation]", "[find_one,understanding]", "[find_one,several]", "all"]
)
def test_data_of_these_tasks_is_taken_again_and_of_others_is_not(tmp_path, task):
    def settings(task):
        made = ["source=rendered", "size=2", f"task={task}"]
        return DataSettings(folder=str(tmp_path / "data"), make={"train": made})

    assert make_missing(settings(task)) == ["train"]
    assert make_missing(settings(task)) == []
    if task != "all":
        with pytest.raises(ConfigError, match="task="):
            make_missing(settings("[find_all,understanding]"))
