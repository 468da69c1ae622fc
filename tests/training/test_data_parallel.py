"""Two processes on one machine train as one does on the joint batch."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lynx_moe.objectives.attached import FILE

ROOT = Path(__file__).resolve().parents[2]


def command(processes: int, batch_size: int, folder: Path, base_folder: str, data_folder: str, *more: str) -> list[str]:
    launcher = ["-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--standalone"] if processes > 1 else []
    return [
        sys.executable, *launcher, str(ROOT / "train.py"), "model=path", f"model.path={base_folder}", "data=folder",
        f"data.folder={data_folder}", f"trainer.batch_size={batch_size}", "trainer.max_steps=3",
        "trainer.precision=fp32", "trainer.save_every=2", "trainer.log_every=1", "adapter.balance=0",
        "adapter.gate_sparsity=0", "adapter.prompt_gate=on", f"output_dir={folder}", *more,
    ]  # fmt: skip


def train(*arguments) -> dict:
    folder = arguments[2]
    done = subprocess.run(command(*arguments), cwd=folder.parent, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "run.json").read_text())


def two_agree_with_one(
    folder: Path, base: str, data: str, asked: tuple[str, ...], sharding: str, batch: int = 8
) -> None:
    """One process, and two with half the batch each, end with the same loss, base, adapter and heads of objectives."""
    one = train(1, batch, folder / "one", base, data, *asked)
    two = train(2, batch // 2, folder / "two", base, data, *asked, f"sharding={sharding}")
    assert two["base_hash_unchanged"] and one["base"]["sha256_after"] == two["base"]["sha256_after"]
    assert two["train"]["last_loss"] == pytest.approx(one["train"]["last_loss"], rel=1e-4)
    for file in ("adapter_model.safetensors", FILE):
        first, second = (load_file(folder / name / "adapter" / file) for name in ("one", "two"))
        assert first.keys() == second.keys()
        for name in first:
            torch.testing.assert_close(first[name], second[name], rtol=1e-2, atol=1e-4)


def children(pid: int) -> list[int]:
    """Processes whose parent is `pid`, as Linux tells."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended meanwhile
            if int(path.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(path.parent.name))
    return found


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_two_processes_train_as_one_does_on_the_joint_batch(tmp_path, base_folder, data_folder):
    one = train(1, 8, tmp_path / "one", base_folder, data_folder)
    two = train(2, 4, tmp_path / "two", base_folder, data_folder)
    assert one["base"]["sha256_after"] == two["base"]["sha256_after"] and two["base_hash_unchanged"]
    assert two["train"]["last_loss"] == pytest.approx(one["train"]["last_loss"], rel=1e-4)
    assert two["train"]["last_grad_norm"] == pytest.approx(one["train"]["last_grad_norm"], rel=1e-3)
    first, second = (load_file(tmp_path / name / "adapter/adapter_model.safetensors") for name in ("one", "two"))
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=1e-2, atol=1e-4)
    assert (tmp_path / "two/checkpoints/checkpoint-2/process-1.safetensors").exists()


@pytest.mark.slow
def test_two_killed_processes_go_on_in_the_middle_of_an_epoch_as_if_nothing_had_been(
    tmp_path, base_folder, data_folder
):
    # 24 records, 8 a step: step 4 is the first of the second epoch, whose order is another.
    more = ("trainer.max_steps=8", "trainer.keep=9", "trainer.evaluate_every=4", "trainer.log_every=3")
    train(2, 4, tmp_path / "whole", base_folder, data_folder, *more)
    parts = tmp_path / "parts"
    arguments = command(2, 4, parts, base_folder, data_folder, *more)
    with open(tmp_path / "said", "w") as said:
        running = subprocess.Popen(arguments, cwd=tmp_path, stdout=said, stderr=said)
        while not (parts / "checkpoints/checkpoint-4").exists():
            assert running.poll() is None, (tmp_path / "said").read_text()[-3000:]
            time.sleep(0.02)
        # The launcher first, who would otherwise end them more gently; its workers are in sessions of their own.
        workers = children(running.pid)
        for pid in (running.pid, *workers):
            os.kill(pid, signal.SIGKILL)
        running.wait()
    assert len(workers) == 2
    assert not (parts / "run.json").exists()
    for later in (6, 8):
        shutil.rmtree(parts / f"checkpoints/checkpoint-{later}", ignore_errors=True)
    card = train(2, 4, parts, base_folder, data_folder, *more)
    assert card["train"]["resumed_from"] == "checkpoint-4"
    for one, other in zip(rows(tmp_path / "whole"), rows(parts), strict=True):
        assert one.keys() == other.keys() and other == pytest.approx(one, rel=1e-4)
    first, second = (load_file(p / "adapter/adapter_model.safetensors") for p in (tmp_path / "whole", parts))
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=1e-4, atol=1e-6)
