"""Two processes report as one does on the joint batch, and stop together when a number is none on one of them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training.test_data_parallel import ROOT, train

pytestmark = pytest.mark.slow

POISONED = """
import sys
import torch
import lynx_moe.training.running as running
from lynx_moe.training.settings import *

class Poisoned(running.LynxTrainer):
    def training_step(self, model, inputs, *rest):
        if self.state.global_step == 1 and self.accelerator.process_index == 1:
            print("poisoned", inputs["record_rows"][2].tolist(), file=sys.stderr, flush=True)
            pixels = inputs["pixel_values"].clone()
            pixels[2] = torch.nan
            inputs = {**inputs, "pixel_values": pixels}
        return super().training_step(model, inputs, *rest)

running.LynxTrainer = Poisoned
base, data, out = sys.argv[1:]
running.run(Settings(
    model=ModelSettings(path=base), data=DataSettings(folder=data), adapter=AdapterSettings(prompt_gate="on"),
    trainer=TrainerSettings(batch_size=4, max_steps=6, log_every=6, save_every=1, precision="fp32", report_to=[]),
    output_dir=out,
))
"""


def test_blocks_and_rates_are_of_all_processes(tmp_path, base_folder, data_folder):
    train(1, 8, tmp_path / "one", base_folder, data_folder)
    train(2, 4, tmp_path / "two", base_folder, data_folder)
    one, two = ((tmp_path / name / "blocks.jsonl").read_text().splitlines() for name in ("one", "two"))
    assert len(one) == len(two) == 3
    for alone, shared in zip(map(json.loads, one), map(json.loads, two), strict=True):
        for name, block in alone["blocks"].items():
            other = shared["blocks"][name]
            assert block["tokens"] == other["tokens"] and block["gate"] == pytest.approx(other["gate"], rel=1e-3)
            assert block["experts"] == pytest.approx(other["experts"], abs=5e-3)
    logs = [[json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
            for name in ("one", "two")]  # fmt: skip
    for alone, shared in zip(*logs, strict=True):
        if "loss" in alone:
            assert alone["answer_loss"] == pytest.approx(shared["answer_loss"], rel=1e-3)
            assert alone["loss"] == pytest.approx(shared["loss"], rel=1e-3)


def test_both_stop_with_the_record_of_the_one_that_went_wrong(tmp_path, base_folder, data_folder):
    script, out = tmp_path / "poisoned.py", tmp_path / "run"
    script.write_text(POISONED)
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", str(script), base_folder,
         data_folder, str(out)],
        cwd=ROOT, capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert done.returncode != 0
    told = done.stderr.split("poisoned [")[1]
    row = int(told.split("]")[0])
    record = f"'{row // 2}/{('find', 'what')[row % 2]}'"
    assert done.stderr.count("DivergedError: the router of model.language_model.layers.0.mlp") >= 2
    assert f"the records of the rows concerned are {record} (process 1)" in done.stderr
    # Step 1 was whole and is kept; of step 2 nothing is.
    assert [p.name for p in Path(out, "checkpoints").iterdir()] == ["checkpoint-1"]
    assert not Path(out, "adapter").exists()
