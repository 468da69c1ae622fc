"""Two processes on one machine train as one does on the joint batch."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]


def train(processes: int, batch_size: int, folder: Path, base_folder: str, data_folder: str) -> dict:
    launcher = ["-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--standalone"] if processes > 1 else []
    done = subprocess.run(
        [
            sys.executable, *launcher, str(ROOT / "train.py"), "model=path", f"model.path={base_folder}", "data=folder",
            f"data.folder={data_folder}", f"trainer.batch_size={batch_size}", "trainer.max_steps=3",
            "trainer.precision=fp32", "trainer.save_every=2", "trainer.log_every=1", "adapter.balance=0",
            "adapter.gate_sparsity=0", "adapter.prompt_gate=on", f"output_dir={folder}",
        ],
        cwd=folder.parent, capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "run.json").read_text())


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
    assert (tmp_path / "two/checkpoints/checkpoint-2/rng_state_1.pth").exists()
