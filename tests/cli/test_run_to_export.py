"""A run folder through the command line: trained, evaluated with each gate, exported, verified, and tampered with."""

import json
import shutil
from pathlib import Path

import pytest

from lynx_moe import cli
from lynx_moe.training import run
from lynx_moe.training.command import settings_from
from tests.tiny import tiny_llava_with_processor

CONF = Path(__file__).resolve().parents[2] / "conf"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A base, data, and two training steps: numbers mean nothing, the way does."""
    place = tmp_path_factory.mktemp("trained")
    model, processor = tiny_llava_with_processor()
    model.save_pretrained(place / "base")
    processor.save_pretrained(place / "base")
    paths = [f"model.path={place / 'base'}", f"data.folder={place / 'data'}", f"output_dir={place / 'run'}"]
    run(settings_from(CONF, "train", ["debug=tiny", "trainer.max_steps=2", "trainer.progress=false", *paths]))
    return place


@pytest.mark.parametrize("gate", ["auto", "on", "off"])
def test_run_is_evaluated_with_each_gate(trained, gate, tmp_path):
    out = tmp_path / "e.json"
    words = ["evaluate", str(trained / "run"), "--data", str(trained / "data"), "--split", "validation", "--limit", "4"]
    assert cli.main([*words, "--gate", gate, "--json", str(out)]) == 0
    assert json.loads(out.read_text())["gate"] == gate


def test_gate_off_answers_as_the_base(trained, tmp_path):
    answers = []
    for path, gate in ((trained / "base", "auto"), (trained / "run", "off")):
        words = ["evaluate", str(path), "--data", str(trained / "data"), "--split", "validation", "--limit", "4"]
        assert cli.main([*words, "--gate", gate, "--json", str(tmp_path / "e.json")]) == 0
        answers.append([sample["answer"] for sample in json.loads((tmp_path / "e.json").read_text())["samples"]])
    assert answers[0] == answers[1]


@pytest.fixture(scope="module")
def exported(trained):
    out = trained / "export"
    assert cli.main(["export", str(trained / "run"), "--out", str(out), "--route", "code"]) == 0
    return out


def test_export_is_verified_against_its_base_until_a_byte_changes(trained, exported, tmp_path, capsys):
    out, report = tmp_path / "copy", tmp_path / "v.json"
    shutil.copytree(exported, out)
    asked = ["--data", str(trained / "data"), "--limit", "6", "--certificate", str(tmp_path / "certificate")]
    words = ["verify", str(out), "--base", str(trained / "base"), *asked, "--json", str(report)]
    assert cli.main(words) == 0, capsys.readouterr().err
    found = json.loads(report.read_text())
    assert found["loaded_without_lynx_moe"] is True
    assert found["probe"]["same_boxes"] == found["probe"]["n"] == 20
    assert len(found["base"]["identical"]) == found["certificate"]["weights"]["identical"] > 50
    assert found["certificate"]["verdict"]["bitwise"] is True
    sealed = json.loads((tmp_path / "certificate" / "certificate.json").read_text())
    assert sealed == found["certificate"] and (tmp_path / "certificate" / "certificate.html").is_file()
    weights = out / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert cli.main(["verify", str(out), "--json", str(report)]) == 1
    found = json.loads(report.read_text())
    assert found["changed_files"] == ["model.safetensors"]
    assert f"byte {len(data) - 1} is" in found["changes"]["model.safetensors"][0]
    assert "tensor " in capsys.readouterr().err


def test_export_with_code_is_not_run_unasked(trained, exported, capsys):
    words = ["evaluate", str(exported), "--data", str(trained / "data"), "--split", "validation", "--limit", "2"]
    assert cli.main(words) == 1
    assert "--trust-remote-code" in capsys.readouterr().err
    assert cli.main([*words, "--trust-remote-code"]) == 0


def test_adapter_export_loads_from_its_own_folder(trained, tmp_path):
    out = tmp_path / "export"
    assert cli.main(["export", str(trained / "run"), "--out", str(out), "--route", "adapter"]) == 0
    words = ["evaluate", str(out), "--data", str(trained / "data"), "--split", "validation", "--limit", "2"]
    assert cli.main(words) == 0


def test_unfinished_run_is_named_as_such(tmp_path, capsys):
    (tmp_path / "adapter").mkdir()
    assert cli.main(["evaluate", str(tmp_path), "--data", "nowhere"]) == 1
    assert "holds no finished records" in capsys.readouterr().err
