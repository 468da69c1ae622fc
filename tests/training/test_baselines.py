"""LoRA and full fine-tuning as baselines: the same run, folder and measurements, and the base still untouched."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText

from lynx_moe.errors import ExportError
from lynx_moe.export.read import read
from lynx_moe.loading import load
from lynx_moe.training import run
from lynx_moe.training.hashing import hash_base
from lynx_moe.training.method import adapter_parts


@pytest.fixture(params=["lora", "full"])
def method(request):
    return request.param


def test_a_baseline_trains_and_can_be_taken_off(settings, base_folder, method):
    chosen = settings(max_steps=3, retention_kl=1.0, learning_rate=1e-2, adapter={"method": method, "lora_rank": 2})
    card = run(chosen)
    assert card["base_hash_unchanged"] and card["gates"] == {} and not card["dead_parameters"]
    assert card["train"]["last_retention_kl"] > 0 and card["prompt_gate"] == {"mode": None, "fitted": False}

    base = AutoModelForImageTextToText.from_pretrained(base_folder).eval()
    loaded = load(chosen.output_dir)
    assert hash_base(loaded.model.get_base_model(), adapter_parts(loaded.model)) == hash_base(base)
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        plain, tuned = base(input_ids=ids).logits, loaded.model(input_ids=ids).logits
        with loaded.gate("off"):
            off = loaded.model(input_ids=ids).logits
        with loaded.gate("on"):
            on = loaded.model(input_ids=ids).logits
    assert torch.equal(off, plain) and torch.equal(on, tuned) and not torch.allclose(tuned, plain)


def test_full_trains_all_layers_of_the_decoder_and_nothing_else(settings, base_folder):
    chosen = settings(max_steps=1, adapter={"method": "full"})
    layers = AutoModelForImageTextToText.from_pretrained(base_folder).model.language_model.layers
    assert run(chosen)["train"]["trainable_parameters"] == sum(p.numel() for p in layers.parameters())


def test_a_baseline_is_no_adapter_of_ours_to_export(settings):
    chosen = settings(max_steps=1, adapter={"method": "lora"})
    run(chosen)
    assert json.loads(Path(chosen.output_dir, "adapter", "adapter_config.json").read_text())["peft_type"] == "LORA"
    with pytest.raises(ExportError, match="merge_and_unload"):
        read(load(chosen.output_dir).model)
