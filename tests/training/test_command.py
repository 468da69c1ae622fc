"""`python train.py` as a user calls it: in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def train(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *arguments], cwd=cwd, capture_output=True, text=True, timeout=300
    )


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("adapter.num_expert=3", ["ConfigError", "adapter.num_expert", "adapter.num_experts"]),
        ("+trainer.max_step=3", ["ConfigError", "trainer.max_steps"]),
        ("adapter.prompt_gate=of", ["ConfigError", "'off'"]),
        ("model=nothing", ["ConfigError", "pocket"]),
    ],
)
def test_mistake_ends_with_status_1_and_words_not_a_traceback(tmp_path, argument, words):
    done = train(argument, cwd=tmp_path)
    assert done.returncode == 1
    assert all(word in done.stderr for word in [*words, "why:", "fix:"]), done.stderr
    assert "Traceback" not in done.stderr
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_help_lists_groups_and_every_setting(tmp_path):
    done = train("--help", cwd=tmp_path)
    assert done.returncode == 0
    assert all(text in done.stdout for text in ("lynx_paper", "adapter.gate_sparsity", "gating strength", "required"))


def test_train_makes_its_data_trains_and_writes_only_into_outputs(tmp_path, base_folder):
    folder = tmp_path / "elsewhere"
    done = train(
        "model=path", f"model.path={base_folder}", "debug=tiny", "trainer.max_steps=1", f"output_dir={folder}",
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    card = json.loads((folder / "run.json").read_text())
    assert card["train"]["steps"] == 1 and card["base_hash_unchanged"]
    assert (tmp_path / "outputs/data/tiny/manifest.json").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["elsewhere", "outputs"]
    assert {p.name for p in folder.iterdir()} >= {"adapter", "log.jsonl", "run.json", "tensorboard"}


@pytest.mark.slow
def test_sweep_gives_every_combination_its_own_folder(tmp_path, base_folder, data_folder):
    done = train(
        "-m", "model=path", f"model.path={base_folder}", "data=folder", f"data.folder={data_folder}", "trainer=quick",
        "trainer.max_steps=1", "adapter.gate_sparsity=0,0.1", f"output_dir={tmp_path}/sweep", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    cards = [json.loads(p.read_text()) for p in sorted((tmp_path / "sweep").rglob("run.json"))]
    assert [c["settings"]["adapter"]["gate_sparsity"] for c in cards] == [0.0, 0.1]
