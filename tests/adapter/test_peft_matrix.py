"""PEFT's own test matrix, asked of LYNX: what `tests/testing_common.py` of its repository demands of any method.

What `test_peft_manners.py` and `test_gradients.py` test already is not repeated here.
"""

import copy
import io
import json
import os
import pickle

import pytest
import torch
from peft import (
    PeftModel,
    get_base_model_state_dict,
    get_peft_model,
    get_peft_model_state_dict,
    inject_adapter_in_model,
    prepare_model_for_kbit_training,
    set_peft_model_state_dict,
)
from safetensors.torch import load_file

from lynx_moe.adapter import LynxConfig, dead_parameters, lynx_layers, runtime_of, set_gate
from lynx_moe.errors import ConfigError
from tests.adapter.speaking import adapted, make_it_speak
from tests.tiny import tiny_llava

# Both kinds of wrapped module at once: blocks, and attention projections with deltas.
BOTH = {"prompt_gate": "on", "attention_rank": 2}


def fresh(model=None, **settings):
    return get_peft_model(tiny_llava()[0] if model is None else model, LynxConfig(**{**BOTH, **settings}))


def trainable(model):
    return {name for name, p in model.named_parameters() if p.requires_grad}


# Names, configs, repr


def test_adapter_name_is_part_of_parameter_names_and_shows_in_repr(llava):
    peft_model = get_peft_model(llava[0], LynxConfig(), adapter_name="test-adapter")
    assert any("test-adapter" in name for name, _ in peft_model.named_parameters())
    assert "test-adapter" in repr(peft_model) and "LynxLayer" in repr(peft_model)


def test_a_taken_name_is_refused_and_nothing_changes(llava):
    peft_model = adapted(llava[0], **BOTH)
    before = {name: tensor.clone() for name, tensor in peft_model.state_dict().items()}
    with pytest.raises(ValueError, match="already exists"):
        peft_model.add_adapter("default", LynxConfig(num_experts=6))
    after = peft_model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)
    assert peft_model.peft_config["default"].num_experts == 4 and peft_model.active_adapters == ["default"]


def test_a_config_that_names_its_modules_is_used_as_the_object_it_is(tmp_path):
    saved = fresh()
    saved.save_pretrained(tmp_path)
    config = LynxConfig(**BOTH, target_modules=saved.peft_config["default"].target_modules)
    loaded = PeftModel.from_pretrained(tiny_llava()[0], tmp_path, is_trainable=False, config=config)
    assert loaded.peft_config["default"] is config and config.inference_mode


def test_inference_mode_trains_nothing(llava):
    assert not trainable(fresh(llava[0], inference_mode=True))


def test_status_says_what_is_where(llava):
    peft_model = fresh(llava[0])
    peft_model.add_adapter("other", LynxConfig(layers=[1]))
    layers, status = peft_model.get_layer_status(), peft_model.get_model_status()
    assert {layer.module_type for layer in layers} == {"LynxLayer", "LynxProjection"}
    assert {tuple(layer.available_adapters) for layer in layers} == {("default",), ("other",)}
    assert status.enabled and status.active_adapters == ["default"] and not status.merged_adapters
    assert status.peft_types == {"default": "LYNX", "other": "LYNX"}
    assert status.requires_grad == {"default": True, "other": False}
    peft_model.base_model.disable_adapter_layers()
    assert peft_model.get_model_status().enabled is False


# Saving and loading


def test_several_adapters_are_saved_apart_and_a_name_inside_a_name_is_another_name(tmp_path):
    peft_model = adapted(tiny_llava()[0], **BOTH)
    expected = get_peft_model_state_dict(peft_model)
    for index, name in enumerate(("default2", "other_default", "foodefault_bar", "efaul")):
        peft_model.add_adapter(name, LynxConfig(**BOTH))
        make_it_speak(peft_model, name, seed=index + 1)
    peft_model.save_pretrained(tmp_path / "one", selected_adapters=["default"])
    assert "efaul" not in os.listdir(tmp_path / "one")
    saved = load_file(tmp_path / "one" / "adapter_model.safetensors")
    assert saved.keys() == expected.keys() and all(torch.equal(saved[k], expected[k]) for k in saved)

    peft_model.save_pretrained(tmp_path / "all")
    assert {"adapter_config.json", "adapter_model.safetensors"} == set(os.listdir(tmp_path / "all" / "efaul"))
    loaded = PeftModel.from_pretrained(tiny_llava()[0], tmp_path / "all")
    loaded.load_adapter(tmp_path / "all" / "efaul", "efaul")
    state = peft_model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.state_dict().items())


def test_the_saved_folder_says_base_and_library_and_holds_no_base(tmp_path):
    fresh().save_pretrained(tmp_path)
    assert "library_name: peft" in (tmp_path / "README.md").read_text()
    assert json.loads((tmp_path / "adapter_config.json").read_text())["peft_type"] == "LYNX"
    assert not {"model.safetensors", "config.json"} & set(os.listdir(tmp_path))


def test_loading_several_times_misses_no_key_also_with_low_memory(tmp_path):
    fresh().save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny_llava()[0], tmp_path, low_cpu_mem_usage=True)
    for name, low in (("other", False), ("yet-another", True)):
        result = loaded.load_adapter(tmp_path, adapter_name=name, low_cpu_mem_usage=low)
        assert result.missing_keys == [] and result.unexpected_keys == []
    assert {t.device.type for t in (*loaded.parameters(), *loaded.buffers())} == {"cpu"}


@torch.no_grad()
def test_a_deleted_name_can_be_loaded_again(llava, tmp_path):
    model, inputs = llava
    peft_model = adapted(model, **BOTH)
    peft_model.save_pretrained(tmp_path)
    spoken = peft_model(**inputs).logits
    peft_model.add_adapter("other", LynxConfig(prompt_gate="off", num_experts=2))
    peft_model.set_adapter("other")
    peft_model.delete_adapter("default")
    peft_model.load_adapter(tmp_path, adapter_name="default")
    peft_model.set_adapter("default")
    assert torch.equal(peft_model(**inputs).logits, spoken)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_without_autocast_new_weights_have_the_bases_dtype(tmp_path, dtype):
    peft_model = get_peft_model(tiny_llava()[0].to(dtype), LynxConfig(**BOTH), autocast_adapter_dtype=False)
    peft_model.add_adapter("added", LynxConfig(**BOTH), autocast_adapter_dtype=False)
    peft_model.save_pretrained(tmp_path)
    peft_model.load_adapter(tmp_path, adapter_name="loaded", autocast_adapter_dtype=False)
    new = {n: p.dtype for n, p in peft_model.named_parameters() if ".lynx_branch." in n or ".lynx_delta." in n}
    assert {name.split(".lynx_branch.")[-1].split(".")[0] for name in new if "branch" in name} == {
        "default",
        "added",
        "loaded",
    }
    assert set(new.values()) == {dtype}


def test_the_bases_state_is_found_under_its_own_names(llava):
    names = set(llava[0].state_dict())
    assert set(get_base_model_state_dict(fresh(llava[0]))) == names


# Training


def test_preparing_for_training_makes_embeddings_carry_gradients(llava):
    model, inputs = llava
    peft_model = fresh(prepare_model_for_kbit_training(model))
    assert not peft_model.get_input_embeddings()(inputs["input_ids"]).requires_grad
    peft_model.enable_input_require_grads()
    assert peft_model.get_input_embeddings()(inputs["input_ids"]).requires_grad


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_pefts_own_way_of_enabling_checkpointing_cuts_nothing(llava, use_reentrant):
    model, inputs = llava
    peft_model = adapted(model, **BOTH).train()
    peft_model.prepare_model_for_gradient_checkpointing(peft_model)
    peft_model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    (peft_model(**inputs).logits ** 2).sum().backward()
    assert dead_parameters(peft_model) == []
    assert all(p.grad is None for n, p in peft_model.named_parameters() if ".lynx_" not in n)


def test_switching_moves_requires_grad_with_it(llava):
    peft_model = fresh(llava[0])
    peft_model.add_adapter("other", LynxConfig(**BOTH))

    def owners():
        return {name for name in ("default", "other") if any(f".{name}." in n for n in trainable(peft_model))}

    assert owners() == {"default"}
    peft_model.set_adapter("other")
    assert owners() == {"other"}
    with peft_model.disable_adapter():
        pass
    assert owners() == {"other"}
    peft_model.base_model.set_adapter(["default", "other"])
    assert owners() == {"default", "other"}
    peft_model.set_requires_grad("other", requires_grad=False)
    assert owners() == {"default"}
    peft_model.set_adapter("other", inference_mode=True)
    assert owners() == set()
    peft_model.set_requires_grad(["default", "other"])
    assert owners() == {"default", "other"}
    assert not any("lynx_prompt_gate" in name for name in trainable(peft_model)), "the head is fitted by itself"


def test_only_the_active_adapter_changes_in_a_step(llava):
    model, inputs = llava
    peft_model = adapted(model, **BOTH)
    peft_model.add_adapter("other", LynxConfig(**BOTH))
    make_it_speak(peft_model, "other")
    peft_model.set_adapter("other")
    before = copy.deepcopy(peft_model.state_dict())
    peft_model.train()(**inputs, labels=inputs["input_ids"]).loss.backward()
    torch.optim.SGD([p for p in peft_model.parameters() if p.requires_grad], lr=0.5).step()
    changed = {name for name, tensor in peft_model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == trainable(peft_model) and all(".other." in name for name in changed)


# Deleting


@pytest.mark.parametrize("active", [True, False])
@torch.no_grad()
def test_deleting_leaves_nothing_and_the_last_one_leaves_the_base(llava, active):
    model, inputs = llava
    before = model(**inputs).logits
    peft_model = adapted(model, **BOTH)
    peft_model.add_adapter("gone", LynxConfig(**BOTH, layers="all"))
    if active:
        peft_model.set_adapter("gone")
    peft_model.delete_adapter("gone")
    assert "gone" not in peft_model.peft_config and peft_model.active_adapters == ["default"]
    assert not any(".gone." in name for name in peft_model.state_dict()) and "gone" not in runtime_of(peft_model).modes
    peft_model.delete_adapter("default")
    assert peft_model.active_adapters == []
    assert torch.equal(peft_model.base_model(**inputs).logits, before)


def test_deleting_what_is_not_there_is_refused(llava):
    with pytest.raises(ValueError, match="unknown-adapter does not exist"):
        fresh(llava[0]).delete_adapter("unknown-adapter")


# Calling


@torch.no_grad()
def test_embeddings_instead_of_ids(llava):
    model, inputs = llava
    peft_model = adapted(model, **BOTH)
    words = {k: v for k, v in inputs.items() if k != "pixel_values"}
    spoken = peft_model(**words).logits
    ids = words.pop("input_ids")
    assert torch.equal(peft_model(inputs_embeds=model.get_input_embeddings()(ids), **words).logits, spoken)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@torch.no_grad()
def test_generate_in_half_precision_and_with_a_positional_argument(llava, dtype):
    model, inputs = llava
    peft_model = adapted(model.to(dtype), **BOTH, task_type="CAUSAL_LM")
    rest = {**inputs, "pixel_values": inputs["pixel_values"].to(dtype)}
    ids = rest.pop("input_ids")
    assert peft_model.generate(ids, **rest, max_new_tokens=2).shape == (2, ids.shape[1] + 2)


# Functional API, copies


@torch.no_grad()
def test_injecting_without_a_wrapper_and_moving_the_state(llava):
    model, inputs = llava
    injected = inject_adapter_in_model(LynxConfig(**BOTH), model, adapter_name="a")
    assert injected is model
    make_it_speak(model, "a")
    state = get_peft_model_state_dict(model, adapter_name="a")
    assert all(".a." not in name for name in state)
    for given in ({}, {"state_dict": state}, {"low_cpu_mem_usage": True}):
        other = inject_adapter_in_model(LynxConfig(**BOTH), tiny_llava()[0], adapter_name="b", **given)
        meta = "low_cpu_mem_usage" in given
        assert ("meta" in {p.device.type for p in other.parameters()}) == meta
        result = set_peft_model_state_dict(other, state, adapter_name="b", low_cpu_mem_usage=meta)
        assert result.unexpected_keys == [] and not [k for k in result.missing_keys if ".lynx_" in k]
        assert torch.equal(other.eval()(**inputs).logits, model(**inputs).logits)


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "torch.save"])
@torch.no_grad()
def test_a_copy_speaks_alike_and_has_a_gate_of_its_own(llava, how):
    model, inputs = llava
    peft_model = adapted(model, **BOTH)
    if how == "deepcopy":
        twin = copy.deepcopy(peft_model)
    elif how == "pickle":
        twin = pickle.loads(pickle.dumps(peft_model))
    else:
        file = io.BytesIO()
        torch.save(peft_model, file)
        file.seek(0)
        twin = torch.load(file, weights_only=False)
    spoken = peft_model(**inputs).logits
    assert torch.equal(twin(**inputs).logits, spoken)
    with set_gate(twin, False):
        assert torch.equal(peft_model(**inputs).logits, spoken)
        assert torch.equal(twin(**inputs).logits, tiny_llava()[0](**inputs).logits)
    assert len(lynx_layers(twin)) == len(runtime_of(twin).layers)


# modules_to_save


@torch.no_grad()
def test_modules_to_save_travel_and_disabling_still_gives_the_base(llava, tmp_path):
    model, inputs = llava
    before = model(**inputs).logits
    peft_model = adapted(model, **BOTH, modules_to_save=["multi_modal_projector"])
    copies = [p for n, p in peft_model.named_parameters() if "modules_to_save.default" in n]
    assert copies and all(p.requires_grad for p in copies)
    for parameter in copies:
        parameter.add_(0.5)
    spoken = peft_model(**inputs).logits
    peft_model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny_llava()[0], tmp_path).eval()
    assert torch.equal(loaded(**inputs).logits, spoken)
    with peft_model.disable_adapter():
        assert torch.equal(peft_model(**inputs).logits, before)


@pytest.mark.parametrize("prompt_gate", ["auto", "off"])
def test_modules_to_save_under_a_prompt_gate_are_refused(prompt_gate):
    with pytest.raises(ConfigError, match="whatever the prompt gate decides"):
        LynxConfig(modules_to_save=["lm_head"], prompt_gate=prompt_gate)
