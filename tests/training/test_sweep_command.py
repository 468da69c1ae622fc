"""`python train.py -m` as a user calls it: real sweeps on the tiny LLaVA, through each of Hydra's ways to run them."""

import json
import sqlite3
from pathlib import Path

import pytest

from lynx_moe.report import report
from tests.training.test_command import train

pytestmark = pytest.mark.slow


@pytest.fixture
def sweep(tmp_path, base_folder, data_folder):
    """`sweep("adapter.top_k=1,2", ...)` runs it into tmp_path/sweep; gives the finished process and the cards."""
    common = [
        "model=path", f"model.path={base_folder}", "data=folder", f"data.folder={data_folder}", "trainer=quick",
        "objective=grounding", "trainer.max_steps=1", "trainer.batch_size=4", "trainer.progress=false",
        "adapter.prompt_gate=on", "evaluation.split=validation", "output_dir=sweep",
    ]  # fmt: skip

    def run(*arguments: str):
        done = train("-m", *common, *arguments, cwd=tmp_path)
        cards = {p.parent.name: json.loads(p.read_text()) for p in sorted((tmp_path / "sweep").rglob("run.json"))}
        return done, cards

    return run


def finished_at(folder: Path) -> dict[str, int]:
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.rglob("run.json")}


def test_one_after_the_other_with_a_failing_point_then_again_then_the_report(sweep, tmp_path):
    points = ("adapter.gate_sparsity=0,0.1", "adapter.top_k=2,5", "seed=0")
    done, cards = sweep(*points)
    assert done.returncode == 1 and "2 failed" in done.stderr, done.stderr[-2000:]
    assert set(cards) == {"adapter.gate_sparsity=0,adapter.top_k=2", "adapter.gate_sparsity=0.1,adapter.top_k=2"}
    failed = sorted(p.parent.name for p in (tmp_path / "sweep").rglob("failed.json"))
    assert failed == ["adapter.gate_sparsity=0,adapter.top_k=5", "adapter.gate_sparsity=0.1,adapter.top_k=5"]
    assert all(f"failed: {name}: top_k=5" in done.stderr for name in failed)
    assert len(list((tmp_path / "sweep" / ".sweep" / "base").glob("*.json"))) == 1, "the base was asked once"

    before = finished_at(tmp_path / "sweep")
    done, _ = sweep(*points)
    assert done.returncode == 1 and done.stdout.count("already done") == 2
    assert finished_at(tmp_path / "sweep") == before

    made = report([tmp_path / "sweep"])
    assert [row["state"] for row in made["runs"]] == ["done", "done", "failed", "failed"]
    assert {p["label"] for p in made["points"]} == {"gate_sparsity=0", "gate_sparsity=0.1"}
    assert (tmp_path / "sweep" / "report" / "gates.png").exists()


def test_joblib_runs_points_beside_each_other(sweep, tmp_path):
    done, cards = sweep("hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "adapter.gate_sparsity=0.1", "seed=0,1")
    assert done.returncode == 0, done.stderr[-2000:]
    assert set(cards) == {"seed=0", "seed=1"}
    assert cards["seed=0"]["evaluation"]["before"] == cards["seed=1"]["evaluation"]["before"]
    made = report([tmp_path / "sweep"])
    assert [len(p["runs"]) for p in made["points"]] == [2]


def test_submitit_runs_points_as_jobs_and_names_the_one_that_fails(sweep, tmp_path):
    done, cards = sweep("hydra/launcher=submitit_local", "adapter.top_k=2,5")
    assert done.returncode == 1 and "failed: adapter.top_k=5" in done.stderr, done.stderr[-2000:]
    assert set(cards) == {"adapter.top_k=2"}
    assert list((tmp_path / "sweep" / ".submitit").iterdir())


def test_optuna_goes_on_where_it_was(sweep, tmp_path):
    search = ("hydra/sweeper=optuna", "adapter.gate_sparsity=tag(log, interval(1e-4, 1))")
    done, cards = sweep(*search, "hydra.sweeper.n_trials=1")
    assert done.returncode == 0, done.stderr[-2000:]
    (first,) = cards
    database = tmp_path / "sweep" / "study.db"
    with sqlite3.connect(database) as study:
        # As if the process had died before it could tell the study.
        study.execute("UPDATE trials SET state = 'RUNNING'")
        study.execute("DELETE FROM trial_values")
    before = finished_at(tmp_path / "sweep")

    done, cards = sweep(*search, "hydra.sweeper.n_trials=3")
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(cards) == 3 and finished_at(tmp_path / "sweep").items() >= before.items()
    assert f"{first}: already done" in done.stdout
    with sqlite3.connect(database) as study:
        assert sorted(s for (s,) in study.execute("SELECT state FROM trials")) == ["COMPLETE"] * 3 + ["FAIL"]
        values = study.execute("SELECT objective, value FROM trial_values").fetchall()
        assert sorted(kind for (kind,) in study.execute("SELECT direction FROM study_directions")) == ["MAXIMIZE"] * 2
    told = [c["evaluation"]["after"] for c in cards.values()]
    expected = [(0, a["grounding"]["acc50"]) for a in told] + [(1, a["retention"]["accuracy"]) for a in told]
    assert sorted(values) == sorted(expected)

    done, cards = sweep(*search, "hydra.sweeper.n_trials=3")
    assert done.returncode == 0 and len(cards) == 3


def test_optuna_without_measuring_is_refused_before_anything_runs(sweep, tmp_path):
    done, cards = sweep("hydra/sweeper=optuna", "adapter.top_k=1,2", "evaluation.split=null")
    assert done.returncode == 1 and "fix: evaluation.split=validation" in done.stderr
    assert not cards and "Traceback" not in done.stderr
