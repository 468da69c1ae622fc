"""LYNX in company: several adapters in one batch, LoRA beside it, transformers' adapter methods, what is refused."""

import pytest
import torch
from peft import LoraConfig, PeftModel, convert_to_lora, get_peft_model, inject_adapter_in_model
from peft.helpers import rescale_adapter_scale
from peft.utils.hotswap import hotswap_adapter

from lynx_moe.adapter import LynxConfig, fit_prompt_gate, lynx_layers, record_routing, set_gate
from lynx_moe.errors import ConfigError, ExportError
from lynx_moe.export import plan
from tests.adapter.speaking import KINDS, adapted, make_it_speak
from tests.tiny import tiny_llava

BOTH = {"prompt_gate": "on", "attention_rank": 2}
LORA = {"target_modules": ["q_proj", "up_proj", "down_proj"], "init_lora_weights": False}


def two_adapters(model, **settings):
    peft_model = adapted(model, **{**BOTH, **settings})
    peft_model.add_adapter("other", LynxConfig(prompt_gate="on", num_experts=2, layers="all", mix="token"))
    return make_it_speak(peft_model, "other", seed=5)


def alone(peft_model, name, inputs):
    peft_model.set_adapter(name)
    logits = peft_model(**inputs).logits
    peft_model.set_adapter("default")
    return logits


# One batch, several adapters


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_each_row_is_answered_by_the_adapter_of_its_name(vlm, kind):
    model, inputs = vlm
    base = model(**inputs).logits
    peft_model = two_adapters(model, **KINDS[kind])
    both = {name: alone(peft_model, name, inputs) for name in ("default", "other")} | {"__base__": base}
    for names in (["default", "other"], ["other", "__base__"], ["__base__", "default"], ["__base__", "__base__"]):
        mixed = peft_model(**inputs, adapter_names=names).logits
        for row, name in enumerate(names):
            torch.testing.assert_close(mixed[row], both[name][row], rtol=1e-5, atol=1e-5)
            if name == "__base__":
                assert torch.equal(mixed[row], base[row])
    assert torch.equal(peft_model(**inputs).logits, both["default"]), "nothing is left behind"


@pytest.mark.parametrize("beams", [1, 2])
@pytest.mark.parametrize("task_type", [None, "CAUSAL_LM"])
@torch.no_grad()
def test_a_mixed_batch_generates_what_each_would_alone(llava, beams, task_type):
    model, inputs = llava
    settings = {"max_new_tokens": 4, "do_sample": False, "num_beams": beams}
    base = model.generate(**inputs, **settings)
    peft_model = two_adapters(model, task_type=task_type)
    peft_model.set_adapter("other")
    other = peft_model.generate(**inputs, **settings)
    peft_model.set_adapter("default")
    mixed = peft_model.generate(**inputs, **settings, adapter_names=["__base__", "other"])
    assert torch.equal(mixed[0], base[0]) and torch.equal(mixed[1], other[1])


@torch.no_grad()
def test_a_row_given_to_an_adapter_still_obeys_its_prompt_gate(llava):
    model, inputs = llava
    base = model(**inputs).logits
    peft_model = two_adapters(model)
    with set_gate(peft_model, [False, True]):
        mixed = peft_model(**inputs, adapter_names=["default", "__base__"]).logits
    assert torch.equal(mixed, base)


@torch.no_grad()
def test_routing_of_a_mixed_batch_is_recorded_per_adapter(llava):
    model, inputs = llava
    peft_model = two_adapters(model)
    with record_routing(peft_model) as routing:
        peft_model(**inputs, adapter_names=["default", "other"])
    first = "model.language_model.layers.0.mlp"
    assert routing[f"{first}@default"]["rows"].tolist() == [True, False]
    assert routing[f"{first}@other"]["rows"].tolist() == [False, True]


def test_a_mixed_batch_is_refused_where_it_makes_no_sense(llava):
    model, inputs = llava
    peft_model = two_adapters(model)
    with pytest.raises(ValueError, match="Length of `adapter_names` should be the same as the number of inputs"):
        peft_model(**inputs, adapter_names=["default"] * 3)
    with pytest.raises(ConfigError, match="nobody"):
        peft_model(**inputs, adapter_names=["default", "nobody"])
    with pytest.raises(ValueError, match="Cannot pass `adapter_names` when the model is in training mode"):
        peft_model.train()(**inputs, adapter_names=["default", "other"])


# LoRA and others


def bare_logits(model, inputs):
    with torch.no_grad():
        return model(**inputs).logits


@pytest.mark.parametrize("way", ["wrapped", "injected"])
def test_lynx_over_lora_switched_off_is_the_lora_model(way):
    model, inputs = tiny_llava()
    lora = get_peft_model(model, LoraConfig(**LORA)).eval()
    before = bare_logits(lora, inputs)
    if way == "wrapped":
        both = adapted(lora, **BOTH)
    else:
        inject_adapter_in_model(LynxConfig(**BOTH), lora.get_base_model(), adapter_name="default")
        both = make_it_speak(lora).eval()
    assert list(lynx_layers(both)) == [f"model.language_model.layers.{i}.mlp" for i in (0, 2)]
    assert not torch.equal(bare_logits(both, inputs), before)
    with set_gate(both, False):
        assert torch.equal(bare_logits(both, inputs), before)


def test_lynx_over_lora_saves_and_finds_its_places_again(tmp_path):
    def lora():
        torch.manual_seed(3)
        return get_peft_model(tiny_llava()[0], LoraConfig(**LORA)).eval()

    inputs = tiny_llava()[1]
    both = adapted(lora(), **BOTH)
    both.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(lora(), tmp_path).eval()
    assert torch.equal(bare_logits(loaded, inputs), bare_logits(both, inputs))


def test_lora_over_lynx_adds_to_it_and_disabling_silences_both():
    model, inputs = tiny_llava()
    base = bare_logits(model, inputs)
    lynx = adapted(model, **BOTH)
    before = bare_logits(lynx, inputs)
    both = get_peft_model(lynx, LoraConfig(**LORA)).eval()
    together = bare_logits(both, inputs)
    assert not torch.equal(together, before)
    with both.disable_adapter():  # PEFT disables every tuner layer below, also ours
        assert torch.equal(bare_logits(both, inputs), base)
    assert torch.equal(bare_logits(both, inputs), together)


def test_what_cannot_be_done_is_refused_in_words(llava, tmp_path):
    peft_model = two_adapters(llava[0])
    peft_model.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="a weighted sum of two routers"):
        peft_model.add_weighted_adapter(["default", "other"], [0.5, 0.5], "sum")
    with pytest.raises(ExportError, match="in place"):
        peft_model.merge_adapter()
    with pytest.raises(ValueError, match="different peft types"):
        peft_model.add_adapter("lora", LoraConfig(**LORA))
    with pytest.raises(ValueError, match="only supports LORA"):
        hotswap_adapter(peft_model, tmp_path, "default")
    with pytest.raises(ValueError, match="LoraLayer"), rescale_adapter_scale(peft_model, 0.5):
        pass
    assert not peft_model.supports_lora_conversion()
    with pytest.raises(TypeError, match="do not support LoRA conversion"):
        convert_to_lora(peft_model, rank=4)
    with pytest.raises(ValueError, match="not compatible with the `PeftMixedModel`"):
        get_peft_model(tiny_llava()[0], LynxConfig(), mixed=True)


def test_an_adapter_with_retrained_modules_is_not_exported(llava):
    with pytest.raises(ExportError, match="multi_modal_projector"):
        plan(adapted(llava[0], modules_to_save=["multi_modal_projector"]))


# transformers' own methods


@torch.no_grad()
def test_transformers_own_adapter_methods(llava, tmp_path):
    model, inputs = llava
    base = model(**inputs).logits
    model.add_adapter(LynxConfig(**BOTH), adapter_name="a")
    spoken = make_it_speak(model, "a").eval()(**inputs).logits
    assert not torch.equal(spoken, base)
    model.disable_adapters()
    assert torch.equal(model(**inputs).logits, base)
    model.enable_adapters()
    model.add_adapter(LynxConfig(prompt_gate="on", layers="all"), adapter_name="b")
    assert not torch.equal(make_it_speak(model, "b", seed=3)(**inputs).logits, spoken)
    assert model.active_adapters() == ["b"]
    model.set_adapter("a")
    assert torch.equal(model(**inputs).logits, spoken)
    model.save_pretrained(tmp_path)
    other = tiny_llava()[0]
    other.load_adapter(str(tmp_path), adapter_name="z")
    assert torch.equal(other.eval()(**inputs).logits, spoken)
    model.delete_adapter("b")
    model.delete_adapter("a")
    assert torch.equal(model(**inputs).logits, base)


@torch.no_grad()
def test_auto_classes_open_a_saved_adapter_with_its_fitted_gate(llava, tmp_path):
    from transformers import AutoModelForImageTextToText

    llava[0].save_pretrained(tmp_path / "base")
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "base")
    inputs = llava[1]
    peft_model = adapted(model, prompt_gate="auto")
    fit_prompt_gate(peft_model, [[10, 11, 12], [50, 51, 52]] * 4, [True, False] * 4)
    peft_model.save_pretrained(tmp_path / "adapter")
    opened = AutoModelForImageTextToText.from_pretrained(tmp_path / "adapter").eval()
    assert torch.equal(opened(**inputs).logits, peft_model(**inputs).logits)
