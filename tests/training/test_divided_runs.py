"""Two real processes, divided in every way: the loss curve and the adapter are those of one process."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lynx_moe.loading import load

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
# Penalties, retention, clipping, a fitted prompt gate: all that a division could get wrong. One record per micro-batch,
# so that processes disagree at nearly every one whether there is an understanding answer.
WHAT = (
    "trainer.batch_size=1", "trainer.max_steps=3", "trainer.precision=fp32", "trainer.save_every=2",
    "trainer.log_every=1", "trainer.learning_rate=1e-2", "trainer.max_grad_norm=0.5", "adapter.gate_sparsity=0.1",
    "adapter.balance=0.1", "adapter.router_z=0.01", "adapter.attention_rank=2", "adapter.expert_init=slice",
    "objective.retention_kl=1", "objective.box_weight=2",
)  # fmt: skip
CURVE = ("loss", "grad_norm", "answer_loss", "retention_kl", "gate", "sparsity", "balance", "router_z")


@pytest.fixture(scope="module")
def train(tmp_path_factory, base_folder, data_folder):
    """`train("name", *launcher, "key=value", ...)`: the run's folder; an output_dir of that name."""
    around = tmp_path_factory.mktemp("divided")

    def start(name: str, *arguments: str, status: int = 0, **environment: str) -> Path:
        launcher = [a for a in arguments if "=" not in a or a.startswith("-")]
        settings = [a for a in arguments if a not in launcher]
        done = subprocess.run(
            [
                sys.executable, *launcher, str(ROOT / "train.py"), "model=path", f"model.path={base_folder}",
                "data=folder", f"data.folder={data_folder}", *WHAT, f"output_dir={around / name}", *settings,
            ],
            cwd=around, capture_output=True, text=True, timeout=900,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        )  # fmt: skip
        assert done.returncode == status, done.stdout[-1000:] + done.stderr[-4000:]
        (around / f"{name}.stderr").write_text(done.stderr)
        return around / name

    return start


@pytest.fixture(scope="module")
def alone(train) -> Path:
    return train("alone", "trainer.accumulate=4")


def card(folder: Path) -> dict:
    return json.loads((folder / "run.json").read_text())


def curve(folder: Path) -> list[list[float]]:
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [[row[name] for name in CURVE] for row in rows if "loss" in row]


def same_run(one: Path, other: Path, rel: float = 1e-4, atol: float = 1e-4) -> None:
    first, second = card(one), card(other)
    assert first["base"]["tensors"] == second["base"]["tensors"] and second["base_hash_unchanged"]
    assert second["dead_parameters"] == [] and second["prompt_gate"] == first["prompt_gate"]
    for row, expected in zip(curve(other), curve(one), strict=True):
        assert row == pytest.approx(expected, rel=rel, abs=1e-6)
    mine, theirs = (load_file(f / "adapter/adapter_model.safetensors") for f in (one, other))
    assert mine.keys() == theirs.keys() and any("lynx_prompt_gate" in name for name in mine)
    for name in mine:
        torch.testing.assert_close(mine[name], theirs[name], rtol=1e-4, atol=atol, msg=lambda m, n=name: f"{n}: {m}")
    for name, block in first["gates"].items():
        assert second["gates"][name]["grounding_gate"] == pytest.approx(block["grounding_gate"], rel=1e-3)


@pytest.mark.parametrize("kind", ["none", "zero2", "zero2_offload", "zero3", "zero3_offload", "fsdp2"])
def test_two_processes_train_as_one_does_on_the_same_global_batch(train, alone, kind):
    run = train(kind, *TORCHRUN, "trainer.accumulate=2", f"sharding={kind}")
    assert card(run)["sharding"] == {"kind": kind.removesuffix("_offload"), "processes": 2}
    same_run(alone, run)
    # It loads on a base that nobody divided.
    loaded = load(run)
    assert loaded.adapted and all(p.numel() for p in loaded.model.parameters())


@pytest.mark.parametrize("kind", ["none", "zero2", "zero3", "fsdp2"])
def test_divided_run_goes_on_from_a_checkpoint_as_if_nothing_had_happened(train, kind):
    # Three held-out records for two processes: one of them has an understanding answer where the other has none.
    held_out = ("trainer.evaluate_every=2", "trainer.evaluate_records=3", "trainer.keep=4")
    more = (*TORCHRUN, "trainer.accumulate=1", "trainer.max_steps=4", f"sharding={kind}", *held_out)
    whole = train(f"whole_{kind}", *more)
    again = whole.with_name(f"again_{kind}")
    shutil.copytree(whole / "checkpoints/checkpoint-2", again / "checkpoints/checkpoint-2")
    # What Adam remembers must come back too: with moments of zero the next steps would be other ones.
    train(again.name, *more, "trainer.resume=always")
    assert card(again)["train"]["resumed_from"] == "checkpoint-2"
    same_run(whole, again, rel=1e-6, atol=1e-7)


@pytest.mark.parametrize("kind", ["zero2", "zero3", "fsdp2"])
def test_sixteen_bit_base_keeps_its_bytes_and_float32_masters(train, kind):
    more = ("model.dtype=bfloat16", "trainer.precision=bf16")
    one = train(f"bf16_alone_{kind}", "trainer.accumulate=4", *more)
    two = train(f"bf16_{kind}", *TORCHRUN, "trainer.accumulate=2", f"sharding={kind}", *more)
    assert card(one)["base"]["tensors"] == card(two)["base"]["tensors"] and card(two)["base_hash_unchanged"]
    assert card(two)["train"]["loss"] == pytest.approx(card(one)["train"]["loss"], rel=1e-3)
    saved = load_file(two / "adapter/adapter_model.safetensors")
    assert {t.dtype for t in saved.values() if t.is_floating_point()} == {torch.float32}


@pytest.mark.parametrize("quant", ["int8", "nf4"])
def test_quantised_base_under_zero2(train, quant):
    one = train(f"{quant}_alone", "trainer.accumulate=4", f"quant={quant}")
    two = train(quant, *TORCHRUN, "trainer.accumulate=2", f"quant={quant}", "sharding=zero2")
    assert card(one)["base"]["tensors"] == card(two)["base"]["tensors"] and card(two)["base_hash_unchanged"]
    assert card(two)["train"]["loss"] == pytest.approx(card(one)["train"]["loss"], rel=1e-3)


def test_accelerate_launches_with_a_deepspeed_config_of_ones_own_also_on_the_cpu(train, alone, tmp_path):
    theirs = {
        "train_batch_size": "auto", "train_micro_batch_size_per_gpu": "auto", "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto", "bf16": {"enabled": "auto"},
        "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
    }  # fmt: skip
    file = tmp_path / "theirs.json"
    file.write_text(json.dumps(theirs))
    run = train(
        "accelerate", *ACCELERATE, "--use_deepspeed", f"--deepspeed_config_file={file}", "trainer.accumulate=2",
        ACCELERATE_USE_CPU="true",
    )  # fmt: skip
    assert card(run)["sharding"] == {"kind": "zero3", "processes": 2}
    same_run(alone, run)


def test_accelerate_launches_what_the_settings_ask_for(train, alone):
    # On a CPU, without DeepSpeed of its own, accelerate's launcher starts a single process whatever it is asked.
    run = train("accelerate_plain", *ACCELERATE, "--cpu", "trainer.accumulate=4", "sharding=zero2")
    assert card(run)["sharding"] == {"kind": "zero2", "processes": 1}
    same_run(alone, run)


ACCELERATE = ("-m", "accelerate.commands.launch", "--num_processes=2", "--num_machines=1", "--mixed_precision=no",
              "--dynamo_backend=no", "--main_process_port=0")  # fmt: skip


def test_more_than_the_records_is_refused_before_the_first_step_on_every_process(train):
    folder = train("too_few", *TORCHRUN, "trainer.batch_size=32", status=1)
    said = (folder.parent / "too_few.stderr").read_text()
    assert "ConfigError: 24 rows to train on, and one step of 2 processes takes 64" in said
    assert "/lynx_moe/" not in said  # no traceback of ours; the launcher adds one of its own
