"""kill -9 at any moment, the same command again, and nobody can tell from the result."""

import json
import os
import random
import re
import signal
import time
from pathlib import Path

import pytest

from lynx_moe.training.settings import DataSettings, Settings
from tests.training.conftest import made
from tests.training.killing import OPERATIONS_SEEN, Strike, finish, said, start, start_server


@pytest.fixture(scope="module")
def server():
    return start_server()


def result(settings: Settings) -> list[bytes]:
    names = ("log.jsonl", "blocks.jsonl", "adapter/adapter_model.safetensors")
    return [Path(settings.output_dir, name).read_bytes() for name in names]


def files(settings: Settings) -> list[str]:
    folder = Path(settings.output_dir)
    return sorted(p.name for part in (folder, folder / "checkpoints") for p in part.iterdir())


def to(settings: Settings, tmp_path: Path, name: str) -> Settings:
    settings.output_dir = str(tmp_path / name)
    return settings


# Steps 4 and 6 are the second and the last of their epochs of three; the log's rows do not fall on checkpoints.
SHORT = {"batch_size": 8, "max_steps": 7, "save_every": 2, "log_every": 3, "retention_kl": 1.0}
LEFT = ["adapter", "blocks.jsonl", "blocks.png", "checkpoint-6", "checkpoint-7", "checkpoints", "log.jsonl", "run.json",
        "settings.json"]  # fmt: skip


@pytest.fixture(scope="module")
def uninterrupted(server, base_folder, data_folder, tmp_path_factory) -> Settings:
    whole = to(made(base_folder, data_folder, **SHORT), tmp_path_factory.mktemp("whole"), "run")
    assert finish(start(server, whole)) == 0, said(whole)
    assert files(whole) == LEFT
    return whole


def test_killed_at_the_worst_moments_and_robbed_of_a_checkpoint_a_run_ends_as_if_nothing_had_been(
    server, uninterrupted, settings, tmp_path
):
    parts = to(settings(**SHORT), tmp_path, "parts")
    for strike in (
        Strike(operation="open", ending="checkpoint-4/.writing-manifest.json"),  # written, but not yet sealed
        Strike(operation="os.rename", ending="checkpoints/checkpoint-2"),  # the new one named, the old still there
        Strike(operation="os.rename", ending="/.writing-run.json"),  # everything is there but the card
    ):
        assert finish(start(server, parts, strike)) == -signal.SIGKILL, said(parts)
    assert not Path(parts.output_dir, "run.json").exists()
    newest = Path(parts.output_dir, "checkpoints/checkpoint-7/optimizer.safetensors")
    newest.write_bytes(bytes(newest.stat().st_size))
    assert finish(start(server, parts)) == 0, said(parts)
    assert result(parts) == result(uninterrupted) and files(parts) == LEFT
    assert json.loads(Path(parts.output_dir, "run.json").read_text())["train"]["resumed_from"] == "checkpoint-6"
    assert "checkpoint-7 is torn and skipped: optimizer.safetensors has other content" in said(parts)


@pytest.mark.slow
def test_disk_that_fills_up_is_said_and_once_there_is_room_the_run_goes_on(server, uninterrupted, settings, tmp_path):
    parts = to(settings(**SHORT), tmp_path, "parts")
    # The kernel lets no file grow beyond: 60 kB are enough for the adapter, not for the optimiser; 30 for neither.
    for strike, left in (
        (Strike(operation="os.mkdir", ending="/.writing-checkpoint-4", act=60_000), ["checkpoint-2"]),
        (Strike(operation="os.mkdir", ending="/.writing-adapter", act=30_000), ["checkpoint-6", "checkpoint-7"]),
    ):
        assert finish(start(server, parts, strike)) == 1
        assert "CheckpointError: could not save" in said(parts) and "files may not grow as large" in said(parts)
        assert sorted(p.name for p in Path(parts.output_dir, "checkpoints").iterdir()) == left
        assert not Path(parts.output_dir, "adapter").exists()
    assert finish(start(server, parts)) == 0, said(parts)
    assert result(parts) == result(uninterrupted) and files(parts) == LEFT


@pytest.mark.slow
def test_killed_thirty_times_at_random_a_run_ends_as_if_nothing_had_been(server, uninterrupted, settings, tmp_path):
    chosen = {
        "batch_size": 8, "max_steps": 13, "save_every": 2, "log_every": 4, "evaluate_every": 3, "keep": 1,
        "publish": "best", "learning_rate": 0.05, "warmup": 1.0, "retention_kl": 30.0,
        "adapter": {"prompt_gate": "auto"},
    }  # fmt: skip
    whole = to(settings(**chosen), tmp_path, "whole")
    began = time.monotonic()
    assert finish(start(server, whole, Strike(nth=10**9))) == 0, said(whole)
    seconds = time.monotonic() - began
    operations = int(re.search(rf"{OPERATIONS_SEEN}(\d+)", said(whole))[1])
    card = json.loads(Path(whole.output_dir, "run.json").read_text())
    assert card["train"]["published_step"] < 13
    draw, kills, folders = random.Random(0), 0, 0
    while kills < 30:
        parts = to(settings(**chosen), tmp_path, f"parts-{folders}")
        folders += 1
        for number in range(9):
            # Half by the clock, which falls into loading, fitting and steps; half between two operations on files.
            by_clock, unharmed = draw.random() < 0.5, number == 8
            strike = None if by_clock or unharmed else Strike(nth=draw.randrange(1, operations // 2))
            process = start(server, parts, strike)
            if by_clock and not unharmed:
                process.join(draw.uniform(0.0, 0.7 * seconds))
                if process.exitcode is None:
                    os.kill(process.pid, signal.SIGKILL)
            code = finish(process)
            assert code in (0, -signal.SIGKILL), said(parts)
            if code == 0:
                break
            kills += 1
        assert result(parts) == result(whole) and files(parts) == files(whole), parts
    print(f"{kills} kills of {folders} runs")


@pytest.mark.slow
def test_killed_while_its_data_is_being_made(server, settings, tmp_path):
    def make(name: str) -> Settings:
        made = settings(max_steps=2, save_every=1)
        made.data = DataSettings(
            folder=str(tmp_path / name / "data"),
            make={split: ["source=rendered", "size=60", "shard_size=20"] for split in ("train", "validation")},
        )
        return to(made, tmp_path, f"{name}/run")

    (tmp_path / "whole").mkdir(), (tmp_path / "parts").mkdir()
    whole, parts = make("whole"), make("parts")
    began = time.monotonic()
    assert finish(start(server, whole)) == 0
    seconds = time.monotonic() - began
    for share in (0.1, 0.3, 0.4, 0.5):
        process = start(server, parts)
        process.join(share * seconds)
        process.kill()
        finish(process)
    # On a fast machine one of those above may have ended before it was killed; then there is nothing left to do.
    if not (tmp_path / "parts/run/run.json").is_file():
        assert finish(start(server, parts)) == 0, said(parts)
    assert result(parts) == result(whole)


@pytest.mark.slow
def test_two_processes_never_own_one_folder_and_a_killed_owner_leaves_it_free(server, settings, tmp_path):
    chosen = to(settings(max_steps=4, save_every=2), tmp_path, "run")
    owner = start(server, chosen, Strike(operation="os.mkdir", ending="/.writing-checkpoint-2", act="stop"))
    while not Path(chosen.output_dir, "checkpoints").exists():
        time.sleep(0.1)
    assert finish(start(server, chosen)) == 1
    assert "InUseError: another process is training into" in said(chosen)
    os.kill(owner.pid, signal.SIGKILL)
    finish(owner)
    assert finish(start(server, chosen)) == 0
    assert files(chosen)[-1] == "settings.json" and ".lock" not in files(chosen)
