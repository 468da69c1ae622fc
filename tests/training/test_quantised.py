"""Whole runs on a quantised base: hash, retention, reload, generation, export."""

import json
import os
import subprocess
import sys
from pathlib import Path

import bitsandbytes as bnb
import pytest
import torch

import lynx_moe
from lynx_moe.adapter.quantised import quantisation_of
from lynx_moe.errors import ConfigError, ExportError
from lynx_moe.export import export, plan
from lynx_moe.loading import load
from lynx_moe.training import run
from lynx_moe.training.base import load_base
from lynx_moe.training.hashing import hash_base
from lynx_moe.training.settings import QuantSettings
from tests.export.exporting import grounding_and_understanding
from tests.quantised import KINDS

ROOT = Path(lynx_moe.__file__).parents[1]


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_on_a_quantised_base(settings, kind, tmp_path):
    chosen = settings(max_steps=4, batch_size=8, retention_kl=1.0, learning_rate=2e-2)
    chosen.quant, chosen.model.dtype = QuantSettings(kind=kind), "bfloat16"
    card = run(chosen)
    assert card["base_hash_unchanged"] and card["dead_parameters"] == []
    assert card["train"]["last_retention_kl"] >= 0 and "bitsandbytes" in card["versions"]

    base, processor = load_base(chosen.model, chosen.quant)
    assert quantisation_of(base) == kind
    assert hash_base(base).digest == card["base"]["sha256_after"]
    written = json.loads(Path(chosen.output_dir, "adapter/adapter_config.json").read_text())["base"]
    assert (written["quantised"], written["dtype"], written["sha256"]) == (kind, "bfloat16", hash_base(base).digest)

    loaded = load(chosen.output_dir)
    assert quantisation_of(loaded.model) == kind
    inputs = {"input_ids": torch.tensor([[1, 9, 8, 7], [1, 6, 5, 9]]), "attention_mask": torch.ones(2, 4).long()}
    assert loaded.model.generate(**inputs, max_new_tokens=3).shape[0] == 2
    for route in ("native", "code"):
        with pytest.raises(ExportError, match="quantised"):
            plan(loaded.model, route)
    report = export(
        loaded.model, None, tmp_path / "shipped", route="adapter", examples=grounding_and_understanding(inputs)
    )
    assert report is not None and (tmp_path / "shipped" / "adapter_model.safetensors").is_file()
    assert hash_base(loaded.model.get_base_model(), ("lynx_",)).digest == card["base"]["sha256_after"]

    plain = load(chosen.output_dir, dequantise=True)
    assert quantisation_of(plain.model) is None and "rounded weights" in plain.notes[0]
    report = export(
        plain.model, None, tmp_path / "plain", route="code", examples=grounding_and_understanding(inputs), new_tokens=3
    )
    assert report["loaded_without_lynx_moe"] and report["max_abs_logit_diff"] == 0.0
    # The weights are those that the quantised base answers with, written out: the two answer nearly alike.
    with torch.no_grad():
        kept, written = (model.eval()(**inputs).logits.float() for model in (loaded.model, plain.model))
    assert (kept - written).abs().max() < 0.05 * kept.abs().max()


def test_a_base_that_is_not_quantised_has_nothing_to_be_made_plain(settings):
    chosen = settings(max_steps=1)
    run(chosen)
    with pytest.raises(ConfigError, match="not quantised"):
        load(chosen.output_dir, dequantise=True)


@pytest.mark.parametrize("kind", KINDS)
def test_a_hash_is_the_same_before_and_after_answering(settings, kind):
    chosen = settings()
    base, _ = load_base(chosen.model, QuantSettings(kind=kind))
    before = hash_base(base)
    base.generate(input_ids=torch.tensor([[1, 9, 8, 7]]), max_new_tokens=3)
    assert hash_base(base) == before
    assert hash_base(load_base(chosen.model, QuantSettings(kind=kind))[0]) == before


def test_modules_to_skip_may_be_named(settings):
    base, _ = load_base(settings().model, QuantSettings(kind="int8", skip_modules=["mlp.down_proj", "lm_head"]))
    held = [n for n, m in base.named_modules() if isinstance(m, bnb.nn.Linear8bitLt)]
    assert any("vision_tower" in n for n in held) and not any(n.endswith("mlp.down_proj") for n in held)


def test_a_number_type_to_compute_in_must_be_said(settings):
    model = settings().model
    model.dtype = "auto"
    with pytest.raises(ConfigError, match="model.dtype 'auto'"):
        load_base(model, QuantSettings(kind="nf4"))


def test_bitsandbytes_is_asked_for_by_name_when_it_is_missing(settings, monkeypatch):
    monkeypatch.setattr("lynx_moe.training.base.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="quant.kind is 'nf4'") as caught:
        load_base(settings().model, QuantSettings(kind="nf4"))
    assert "lynx-moe[quant]" in caught.value.fix


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_command_trains_the_pocket_base_quantised(kind, tmp_path):
    command = [sys.executable, "train.py", "debug=tiny", f"quant={kind}", f"data.folder={tmp_path / 'data'}"]
    command += [f"output_dir={tmp_path / 'run'}", "trainer.progress=false"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    card = json.loads((tmp_path / "run/run.json").read_text())
    assert card["settings"]["quant"]["kind"] == kind and card["settings"]["model"]["dtype"] == "bfloat16"
    assert card["base_hash_unchanged"] and card["dead_parameters"] == [] and card["train"]["steps"] == 4
    assert any(name.endswith(("SCB", "absmax")) for name in card["base"]["tensors"])
