"""The command line: Hydra overrides in, typed errors with the nearest names out."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, fields
from pathlib import Path

import pytest

import synth.__main__ as cli
from synth.errors import SettingsError
from synth.settings import Settings

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments):
    return subprocess.run([sys.executable, "-m", "synth", *arguments], cwd=ROOT, capture_output=True, text=True)


def test_the_command_makes_a_dataset_and_says_what_it_made(tmp_path):
    done = run("task=[find_one,exists]", "source=rendered", "size=4", "shard_size=2", "workers=2", f"out={tmp_path}/d")
    assert done.returncode == 0, done.stderr
    counts = json.loads((tmp_path / "d/manifest.json").read_text())["counts"]["train"]
    assert set(counts) == {"find_one", "exists"}
    assert f"{sum(counts.values())} records" in " ".join(done.stderr.split())
    again = run("task=[exists,find_one]", "size=4", "shard_size=2", f"out={tmp_path}/d")
    assert again.returncode == 0 and "nothing to do" in " ".join(again.stderr.split())


def test_a_failure_exits_with_one_and_a_message_without_a_traceback(tmp_path):
    done = run("sise=4", f"out={tmp_path}/d")
    assert done.returncode == 1
    assert "nearest: size" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(
    "override, said",
    [
        ("questions=4", "questions_per_image"),
        ("folder.pth=x", "folder.path"),
        ("+size=3", "nearest: size"),
        ("~size", "key=value"),
        ("size", "key=value"),
        ("size=many", "size=many"),
        ("task=[a", "task=[a"),
    ],
)
def test_an_override_that_cannot_be_used_says_why(override, said):
    with pytest.raises(SettingsError) as caught:
        cli.settings_from([override])
    assert said in str(caught.value)


def test_values_arrive_with_their_types():
    made = cli.settings_from(["size=null", "seed=a", "task=[x,y]", "folder.val_fraction=0.5", "overwrite=true"])
    assert (made.size, made.seed, list(made.task)) == (None, "a", ["x", "y"])
    assert (made.folder.val_fraction, made.overwrite) == (0.5, True)


def test_the_yaml_repeats_no_default_and_an_installed_synth_needs_none(monkeypatch, tmp_path):
    with_yaml = asdict(cli.settings_from([]))
    monkeypatch.setattr(cli, "CONF", tmp_path)
    assert with_yaml == asdict(cli.settings_from([])) == asdict(Settings())


def test_help_tells_every_setting_task_and_source(capsys):
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    for name in ["find_one", "rendered", "auto", "folder.path", *(f.name for f in fields(Settings))]:
        assert name in text


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_run_leaves_no_process_and_no_manifest_behind(tmp_path, how):
    arguments = ["task=exists", "size=3000", "shard_size=1500", "workers=2", f"out={tmp_path}/d"]
    command = [sys.executable, "-m", "synth", *arguments]
    made = subprocess.Popen(
        command, cwd=ROOT, stderr=subprocess.PIPE, start_new_session=True, text=True,
        # A test run in the background of a script inherits "ignore SIGINT", and would pass it on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    while not list(tmp_path.rglob("*.tmp")) and made.poll() is None:  # until a worker is in the middle of a shard
        time.sleep(0.05)
    os.kill(made.pid, how)
    said = made.communicate(timeout=120)[1]  # ends only when the workers, which hold the same pipe, have ended too
    assert made.returncode == (130 if how == signal.SIGINT else -how)
    assert "Traceback" not in said and not (tmp_path / "d/manifest.json").exists()
    if how == signal.SIGINT:
        assert "finished shards are kept" in said and not list(tmp_path.rglob("*.tmp"))


def test_synth_needs_no_model_library_and_no_network_library():
    unwanted = ("torch", "transformers", "lynx_moe", "peft", "httpx2")
    code = f"import sys, synth; print([m for m in {unwanted} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
