"""What lies above a run in a sweep: done once, failing alone, and never two at a time in one folder."""

import json
import threading

import pytest

from lynx_moe.errors import ConfigError
from lynx_moe.training.settings import Settings
from lynx_moe.training.started_with import started_with
from lynx_moe.training.sweeping import failures, objectives, run_point

CARD = {"evaluation": {"after": {"grounding": {"acc50": 0.25}, "retention": {"accuracy": 0.5}}}}


@pytest.fixture
def point(tmp_path):
    """`point(work, **settings)` runs one point under tmp_path/sweep; `work` writes the card as a run does."""

    def run(work, name: str = "p", command: str = "now", **changes):
        sweep = tmp_path / "sweep"

        def settings() -> Settings:
            return Settings(**changes)

        return run_point(settings, work, folder=sweep / name, sweep=sweep, command=command)

    return run


def write_card(settings: Settings) -> tuple[float, float]:
    from dataclasses import asdict
    from pathlib import Path

    folder = Path(settings.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "settings.json").write_text(json.dumps(started_with(settings)))
    (folder / "run.json").write_text(json.dumps({**CARD, "settings": asdict(settings)}))
    return objectives(CARD)


def never(settings: Settings):
    raise AssertionError("it was done already")


def test_a_finished_point_gives_its_numbers_and_is_not_done_again(point, capsys):
    assert point(write_card) == (0.25, 0.5)
    assert point(never) == (0.25, 0.5)
    assert "already done" in capsys.readouterr().out


def test_a_finished_point_with_other_settings_is_refused_unless_overwritten(point, tmp_path):
    point(write_card, seed=1)
    assert point(never, seed=2) is None
    (reason,) = failures(tmp_path / "sweep", "now").values()
    assert reason["type"] == "OutputExistsError" and "seed was 1, is 2" in reason["why"]
    assert point(write_card, seed=2, overwrite=True) == (0.25, 0.5)


def test_a_failure_is_written_down_not_raised_and_gone_when_it_works(point, tmp_path):
    def fails(settings):
        raise ConfigError("no", why="because", fix="do")

    def bug(settings):
        raise ZeroDivisionError("oh")

    assert point(fails, "a") is None and point(bug, "b") is None
    found = failures(tmp_path / "sweep", "now")
    assert list(found) == ["a", "b"]
    assert [found["a"][key] for key in ("type", "what", "why", "fix")] == ["ConfigError", "no", "because", "do"]
    assert found["b"]["type"] == "ZeroDivisionError" and "in bug" in found["b"]["traceback"]
    assert not failures(tmp_path / "sweep", "another command")
    assert point(write_card, "a") == (0.25, 0.5)
    assert list(failures(tmp_path / "sweep", "now")) == ["b"]


def test_the_same_point_twice_at_a_time_is_done_once(point):
    started, go_on, results = threading.Event(), threading.Event(), []

    def slow(settings):
        started.set()
        assert go_on.wait(30)
        return write_card(settings)

    first = threading.Thread(target=lambda: results.append(point(slow)))
    second = threading.Thread(target=lambda: results.append(point(never)))
    first.start()
    assert started.wait(30)
    second.start()
    second.join(0.3)
    assert second.is_alive()
    go_on.set()
    first.join(30)
    second.join(30)
    assert results == [(0.25, 0.5)] * 2


@pytest.mark.parametrize("card", [{}, {"evaluation": None}, {"evaluation": {"after": {"grounding": None}}}])
def test_no_numbers_where_nothing_was_measured(card):
    assert objectives(card) is None
