"""What `lynx-moe` promises a script: exit status, the `--json` file, and errors that say what, why and fix."""

import json

import pytest

import synth
from lynx_moe import cli, export_cli
from lynx_moe.errors import ConfigError
from tests.tiny import tiny_llava_with_processor


def run(*arguments: str) -> int:
    return cli.main(list(arguments))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    model, processor = tiny_llava_with_processor()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "records"
    synth.make(synth.Settings(out=str(folder), task=["find_one", "count"], size=3, split="val"))
    return str(folder)


def test_mistake_gives_status_1_what_why_fix_and_no_traceback(tmp_path, capsys):
    result = tmp_path / "deep" / "result.json"
    assert run("verify", str(tmp_path), "--json", str(result)) == 1
    shown = capsys.readouterr().err
    assert "why:" in shown and "fix:" in shown and "Traceback" not in shown
    error = json.loads(result.read_text())["error"]
    assert error["type"] == "ExportError" and error["what"] and error["why"] and error["fix"]


def test_bug_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(export_cli, "run_verify", lambda given: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run("verify", "anything")


def test_status_follows_what_the_command_found_true(monkeypatch, tmp_path):
    for truth, status in ((True, 0), (False, 1)):
        monkeypatch.setattr(export_cli, "run_verify", lambda given, truth=truth: {"ok": truth})
        assert run("verify", "anything", "--json", str(tmp_path / "r.json")) == status
        assert json.loads((tmp_path / "r.json").read_text()) == {"ok": truth}


def test_json_file_is_not_touched_when_writing_it_fails(monkeypatch, tmp_path):
    target = tmp_path / "r.json"
    target.write_text("old")

    class Unwritable:
        def __str__(self):
            raise OSError("no space left")

    monkeypatch.setattr(export_cli, "run_verify", lambda given: {"ok": True, "found": Unwritable()})
    with pytest.raises(OSError):
        run("verify", "anything", "--json", str(target))
    assert target.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["r.json"]


@pytest.mark.parametrize("command", ["quickstart", "doctor", "evaluate", "export", "verify", "families"])
def test_every_command_has_help_and_takes_json(command, capsys):
    with pytest.raises(SystemExit) as ended:
        run(command, "--help")
    assert ended.value.code == 0 and "--json" in capsys.readouterr().out


def test_families_lists_the_decoders_blocks_and_not_the_vision_towers(base, tmp_path):
    assert run("families", base, "--json", str(tmp_path / "f.json")) == 0
    found = json.loads((tmp_path / "f.json").read_text())
    assert [block["layer"] for block in found["blocks"]] == [0, 1, 2, 3]
    assert [block["layer"] for block in found["blocks"] if block["chosen"]] == [0, 2]
    assert all("language_model" in block["name"] for block in found["blocks"])
    assert {(block["width"], block["ffn_width"]) for block in found["blocks"]} == {(32, 64)}


def test_families_takes_layer_numbers(base, tmp_path):
    assert run("families", base, "--layers", "1,-1", "--json", str(tmp_path / "f.json")) == 0
    found = json.loads((tmp_path / "f.json").read_text())
    assert [block["layer"] for block in found["blocks"] if block["chosen"]] == [1, 3]


def test_families_of_something_else_is_refused(tmp_path, capsys):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    assert run("families", str(tmp_path)) == 1
    assert "no vision-language model" in capsys.readouterr().err


def test_evaluate_writes_numbers_and_every_answer(base, data, tmp_path):
    out, sheet = tmp_path / "e.json", tmp_path / "sheet.png"
    assert run("evaluate", base, "--data", data, "--limit", "5", "--json", str(out), "--sheet", str(sheet)) == 0
    found = json.loads(out.read_text())
    assert found["n"] == len(found["samples"]) == 5
    assert 0.0 <= found["grounding"]["acc50"] <= 1.0 and 0.0 <= found["retention"]["accuracy"] <= 1.0
    assert sheet.read_bytes().startswith(b"\x89PNG")


def test_evaluate_against_itself_finds_no_flip(base, data, tmp_path):
    out = tmp_path / "e.json"
    assert run("evaluate", base, "--against", base, "--data", data, "--limit", "5", "--json", str(out)) == 0
    change = json.loads(out.read_text())["change"]
    assert change["flips"] == [] and change["same_text"] == 1.0


def test_gate_of_a_base_cannot_be_forced(base, data, capsys):
    assert run("evaluate", base, "--data", data, "--limit", "1", "--gate", "on") == 1
    assert ConfigError.__name__ not in capsys.readouterr().out


def test_a_base_cannot_be_exported(base, tmp_path, capsys):
    assert run("export", base, "--out", str(tmp_path / "out")) == 1
    assert "only a base with an adapter" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
