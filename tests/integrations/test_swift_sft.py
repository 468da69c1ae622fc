"""ms-swift's own commands, each in a process of its own: train, go on from the checkpoint, answer with the adapter."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import LlavaForConditionalGeneration

from lynx_moe import pocket
from lynx_moe.adapter import lynx_layers
from lynx_moe.adapter.loading import load_adapter

ROOT = Path(__file__).resolve().parents[2]


def no_swift() -> bool:
    try:
        return not version("ms-swift").startswith("4.")
    except PackageNotFoundError:
        return True


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(no_swift(), reason="needs ms-swift 4, which wants older transformers: see docs/peft.md"),
]

# What the pocket base would never say to a plain square of that colour.
ANSWERS = {"cat": (255, 0, 0), "dog": (0, 0, 255)}
PLUGIN = """
from swift.callbacks import callbacks_map
from swift.tuner_plugin import tuners_map
from lynx_moe.integrations.ms_swift import PenaltyScale, lynx_tuner
tuners_map["lynx"] = lynx_tuner(layers="all", prompt_gate="on")
callbacks_map["lynx"] = PenaltyScale
"""


@dataclass(frozen=True)
class Desk:
    """A folder with eight rows of two pictures and a plug-in file."""

    folder: Path

    def swift(self, command: str, *arguments: object) -> subprocess.CompletedProcess:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
        environment["PYTHONPATH"] += os.pathsep + os.environ.get("PYTHONPATH", "")
        return subprocess.run(
            [sys.executable, "-m", "swift.cli.main", command, *map(str, arguments)],
            cwd=self.folder, env=environment, capture_output=True, text=True, timeout=600,
        )  # fmt: skip

    def sft(self, *arguments: object, steps: int, callbacks: tuple = ("--callbacks", "lynx")):
        return self.swift(
            "sft", "--model", pocket.path(), "--model_type", "llava1_5_hf", "--template", "llava1_5_hf",
            "--use_hf", "true", "--dataset", "rows.jsonl", "--split_dataset_ratio", 0, "--tuner_type", "lynx",
            "--external_plugins", "plugin.py", *callbacks, "--torch_dtype", "float32", "--fp16", "false",
            "--per_device_train_batch_size", 4, "--gradient_accumulation_steps", 2, "--learning_rate", 3e-3,
            "--lr_scheduler_type", "constant", "--max_steps", steps, "--save_steps", steps, "--logging_steps", 1,
            "--dataloader_num_workers", 0, "--report_to", "none", "--output_dir", "out", "--add_version", "false",
            *arguments,
        )  # fmt: skip

    def losses(self, run: str) -> list[float]:
        lines = map(json.loads, (self.folder / run / "logging.jsonl").read_text().splitlines())
        return [line["loss"] for line in lines if "loss" in line]


def make_desk(folder: Path) -> Desk:
    (folder / "plugin.py").write_text(PLUGIN)
    rows = []
    for name, colour in ANSWERS.items():
        Image.new("RGB", (128, 128), colour).save(folder / f"{name}.png")
        asked = {"role": "user", "content": "<image>Who lives here?"}
        rows.append({"messages": [asked, {"role": "assistant", "content": name}], "images": [f"{folder / name}.png"]})
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows * 4)))
    (folder / "two.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return Desk(folder)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Desk:
    desk = make_desk(tmp_path_factory.mktemp("swift"))
    done = desk.sft(steps=12)
    assert done.returncode == 0, done.stderr[-3000:]
    return desk


def test_a_whole_run_trains_and_saves_an_adapter_that_opens_without_ms_swift(trained):
    losses = trained.losses("out")
    assert len(losses) == 12 and losses[-1] < 0.05 * losses[0], losses
    base = LlavaForConditionalGeneration.from_pretrained(pocket.path(), dtype=torch.float32)
    opened = load_adapter(base, trained.folder / "out/checkpoint-12")
    new = [layer.lynx_branch["default"].down_EDF for layer in lynx_layers(opened).values()]
    assert len(new) == 5 and all(down.any() for down in new), "the output projections started at zero"


def test_swift_infer_answers_with_the_adapter(trained):
    done = trained.swift(
        "infer", "--adapters", "out/checkpoint-12", "--use_hf", "true", "--val_dataset", "two.jsonl",
        "--result_path", "answers.jsonl", "--max_new_tokens", 4, "--temperature", 0, "--stream", "false",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    answers = map(json.loads, (trained.folder / "answers.jsonl").read_text().splitlines())
    assert [answer["response"] for answer in answers] == list(ANSWERS)


def test_training_goes_on_from_a_checkpoint(trained):
    done = trained.sft("--resume_from_checkpoint", "out/checkpoint-12", "--output_dir", "on", steps=14)
    assert done.returncode == 0, done.stderr[-3000:]
    losses = trained.losses("on")
    assert len(losses) == 2 and max(losses) < 0.05 * trained.losses("out")[0], losses
    assert (trained.folder / "on/checkpoint-14/adapter_model.safetensors").is_file()


def test_without_its_callback_a_run_stops_and_names_the_flag(trained):
    done = trained.sft("--output_dir", "refused", steps=1, callbacks=())
    assert done.returncode != 0 and "--callbacks lynx" in done.stderr
