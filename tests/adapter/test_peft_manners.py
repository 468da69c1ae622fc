"""Invariant 5: what PEFT's own tests demand of any method."""

import copy
import os

import pytest
import torch
import transformers
from peft import PeftConfig, PeftModel, get_peft_model
from safetensors import safe_open
from torch import nn

from lynx_moe.adapter import LynxConfig, lynx_layers, record_routing, runtime_of, set_gate
from lynx_moe.adapter.gated import GatedLayer
from lynx_moe.errors import ConfigError, ExportError, FamilyError
from tests import tiny
from tests.adapter.speaking import KINDS, adapted, make_it_speak


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_save_and_load_under_another_name_gives_the_same_outputs(vlm, tmp_path, kind):
    model, inputs = vlm
    base = copy.deepcopy(model)
    peft_model = adapted(model, **KINDS[kind])
    peft_model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(base, tmp_path, adapter_name="elsewhere").eval()
    assert torch.equal(loaded(**inputs).logits, peft_model(**inputs).logits)
    assert "adapter_model.safetensors" in os.listdir(tmp_path)


def test_the_file_holds_the_adapter_alone_and_no_adapter_name(llava, tmp_path):
    peft_model = adapted(llava[0])
    peft_model.save_pretrained(tmp_path)
    with safe_open(tmp_path / "adapter_model.safetensors", "pt") as file:
        keys = list(file.keys())
    assert keys and all(".lynx_" in k and "default" not in k for k in keys)
    expected = sum(t.numel() for n, t in peft_model.state_dict().items() if ".lynx_" in n)
    with safe_open(tmp_path / "adapter_model.safetensors", "pt") as file:
        assert sum(file.get_tensor(k).numel() for k in keys) == expected


@torch.no_grad()
def test_adapters_live_side_by_side_and_switch(vlm, tmp_path):
    model, inputs = vlm
    before = model(**inputs).logits
    peft_model = adapted(model)
    first = peft_model(**inputs).logits
    peft_model.save_pretrained(tmp_path)

    wide = LynxConfig(prompt_gate="on", num_experts=6, layers="all", mix="token", attention_rank=2)
    peft_model.add_adapter("wide", wide)
    make_it_speak(peft_model, "wide", seed=3)
    assert torch.equal(peft_model(**inputs).logits, first), "adding does not activate"
    peft_model.set_adapter("wide")
    second = peft_model(**inputs).logits
    assert not torch.equal(second, first)

    peft_model.load_adapter(tmp_path, adapter_name="copy")
    peft_model.set_adapter("copy")
    assert torch.equal(peft_model(**inputs).logits, first)
    peft_model.set_adapter("wide")
    assert torch.equal(peft_model(**inputs).logits, second)
    with peft_model.disable_adapter():
        assert torch.equal(peft_model(**inputs).logits, before)

    peft_model.delete_adapter("wide")
    peft_model.set_adapter("default")
    assert torch.equal(peft_model(**inputs).logits, first)
    assert not any("wide" in n for n in peft_model.state_dict())


def test_each_adapter_trains_alone(llava):
    model, inputs = llava
    peft_model = adapted(model)
    peft_model.add_adapter("second", LynxConfig(prompt_gate="on"))
    peft_model.set_adapter("second")
    assert {n.split(".lynx_branch.")[1].split(".")[0] for n, p in peft_model.named_parameters() if p.requires_grad} == {
        "second"
    }


@torch.no_grad()
def test_two_active_adapters_of_one_gate_both_speak(llava):
    model, inputs = llava
    peft_model = adapted(model)
    one = peft_model(**inputs).logits
    peft_model.add_adapter("second", LynxConfig(prompt_gate="on"))
    make_it_speak(peft_model, "second", seed=7)
    peft_model.base_model.set_adapter(["default", "second"])
    both = peft_model(**inputs).logits
    peft_model.set_adapter("second")
    assert not torch.equal(both, one) and not torch.equal(both, peft_model(**inputs).logits)


@pytest.mark.parametrize("second", ["off", "auto"])
@torch.no_grad()
def test_two_active_adapters_of_conflicting_gates_are_refused_unless_the_gate_is_forced(llava, second):
    model, inputs = llava
    base = model(**inputs).logits
    peft_model = adapted(model)
    one = peft_model(**inputs).logits
    peft_model.add_adapter("second", LynxConfig(prompt_gate=second))
    make_it_speak(peft_model, "second", seed=7)
    assert torch.equal(peft_model(**inputs).logits, one), "it is not active yet"
    peft_model.base_model.set_adapter(["default", "second"])
    with pytest.raises(ConfigError, match=f"'default' is on, 'second' is {second}") as caught:
        peft_model(**inputs)
    assert "set_gate" in caught.value.fix
    with set_gate(peft_model, True):
        assert not torch.equal(peft_model(**inputs).logits, one)
    with set_gate(peft_model, False):
        assert torch.equal(peft_model(**inputs).logits, base)
    with peft_model.disable_adapter():
        assert torch.equal(peft_model(**inputs).logits, base)
    peft_model.set_adapter("default")
    assert torch.equal(peft_model(**inputs).logits, one), "the refused forward left nothing behind"


@torch.no_grad()
def test_unload_gives_the_base_back_without_a_trace(vlm):
    model, inputs = vlm
    before, names = model(**inputs).logits, set(model.state_dict())
    back = adapted(model, attention_rank=2).unload()
    assert not any(isinstance(m, GatedLayer) for m in back.modules())
    assert set(back.state_dict()) == names
    assert not back._forward_pre_hooks and not back._forward_hooks
    assert torch.equal(back(**inputs).logits, before)
    again = adapted(back)
    assert not torch.equal(again(**inputs).logits, before)


@torch.no_grad()
def test_merging_is_refused_before_anything_is_touched(llava):
    model, inputs = llava
    peft_model = adapted(model)
    spoken = peft_model(**inputs).logits
    for merge in (peft_model.merge_and_unload, peft_model.merge_adapter):
        with pytest.raises(ExportError, match="lynx_moe.export"):
            merge()
    assert torch.equal(peft_model(**inputs).logits, spoken)


@torch.no_grad()
def test_transformers_own_adapter_loading_works(llava, tmp_path):
    model, inputs = llava
    bare = copy.deepcopy(model)
    peft_model = adapted(model)
    peft_model.save_pretrained(tmp_path)
    bare.load_adapter(str(tmp_path))
    assert torch.equal(bare.eval()(**inputs).logits, peft_model(**inputs).logits)


def test_low_memory_loading_gives_the_same_weights(llava, tmp_path):
    model, _ = llava
    base = copy.deepcopy(model)
    adapted(model).save_pretrained(tmp_path)
    plain = PeftModel.from_pretrained(copy.deepcopy(base), tmp_path).state_dict()
    lean = PeftModel.from_pretrained(base, tmp_path, low_cpu_mem_usage=True).state_dict()
    assert plain.keys() == lean.keys() and all(torch.equal(plain[k], lean[k]) for k in plain)


@pytest.mark.parametrize("task_type", [None, "CAUSAL_LM"])
@torch.no_grad()
def test_generation_works_for_either_peft_task_type(llava, task_type):
    model, inputs = llava
    peft_model = adapted(model, task_type=task_type)
    assert peft_model.generate(**inputs, max_new_tokens=3, do_sample=False).shape[1] == inputs["input_ids"].shape[1] + 3


def test_the_callers_config_is_not_changed_but_the_saved_one_names_the_blocks(llava, tmp_path):
    config = LynxConfig()
    peft_model = get_peft_model(llava[0], config)
    assert config.target_modules is None
    peft_model.save_pretrained(tmp_path)
    saved = PeftConfig.from_pretrained(tmp_path)
    assert isinstance(saved, LynxConfig)
    assert saved.target_modules == ["model.language_model.layers.0.mlp", "model.language_model.layers.2.mlp"]


@pytest.mark.parametrize(
    ("layers", "expected"),
    [("every_other", [0, 2]), ("all", [0, 1, 2, 3]), ("upper_half", [2, 3]), ([1], [1]), ([-1, 0], [0, 3])],
    ids=str,
)
def test_layers_choose_blocks(vlm, layers, expected):
    peft_model = get_peft_model(vlm[0], LynxConfig(layers=layers))
    names = peft_model.base_model.targeted_module_names
    assert [int(n.split(".")[-2]) for n in names] == expected
    assert list(lynx_layers(peft_model)) == names
    assert not any("vision" in n or "visual" in n for n in names)


def test_many_layers_keep_the_vision_tower_out_also_after_reloading(tmp_path):
    # PEFT shortens long lists of names to endings; the vision tower has modules of the same ending.
    model, _ = tiny.tiny_llava(num_hidden_layers=24)
    base = copy.deepcopy(model)
    peft_model = get_peft_model(model, LynxConfig(layers="all"))
    assert len(peft_model.base_model.targeted_module_names) == 24
    peft_model.save_pretrained(tmp_path)
    assert len(PeftConfig.from_pretrained(tmp_path).target_modules) == 24
    loaded = PeftModel.from_pretrained(base, tmp_path)
    assert list(lynx_layers(loaded)) == list(lynx_layers(peft_model))
    assert not any("vision" in n for n in lynx_layers(loaded))


def test_a_name_ending_wraps_decoder_blocks_only(llava):
    peft_model = get_peft_model(llava[0], LynxConfig(target_modules=["mlp"]))
    assert peft_model.base_model.targeted_module_names == [f"model.language_model.layers.{i}.mlp" for i in range(4)]


def test_exclude_modules_leaves_blocks_out(llava):
    config = LynxConfig(layers="all", exclude_modules=["layers.1.mlp", "layers.3.mlp"])
    assert len(get_peft_model(llava[0], config).base_model.targeted_module_names) == 2


@pytest.mark.parametrize("target", [["q_proj"], ["vision_tower.encoder.layers.0.mlp"], r".*layers\.9\.mlp"], ids=str)
def test_targets_that_are_no_decoder_block_are_refused(llava, target):
    with pytest.raises(FamilyError, match="no feed-forward block"):
        get_peft_model(llava[0], LynxConfig(target_modules=target))


def test_excluding_everything_is_refused(llava):
    with pytest.raises(FamilyError, match="without exclude_modules"):
        get_peft_model(llava[0], LynxConfig(exclude_modules=["mlp"]))


def test_a_model_without_a_text_decoder_is_refused():
    with pytest.raises(FamilyError):
        get_peft_model(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 4)), LynxConfig())


def test_blocks_of_an_unreadable_decoder_are_wrapped_by_full_name_and_not_by_ending():
    # A vision model stands in for a decoder whose structure says nothing.
    def build():
        return transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**tiny.VISION, image_size=32, patch_size=8))

    with pytest.raises(FamilyError):
        get_peft_model(build(), LynxConfig(target_modules=["mlp"]))
    name = next(n for n, _ in build().named_modules() if n.endswith("layers.0.mlp"))
    wrapped = get_peft_model(build(), LynxConfig(target_modules=[name]))
    assert list(lynx_layers(wrapped)) == [name]
    with pytest.raises(FamilyError, match="not a feed-forward block"):
        get_peft_model(build(), LynxConfig(target_modules=[name.replace("mlp", "layer_norm1")]))


def test_asking_a_bare_model_for_its_gate_is_refused(llava):
    with pytest.raises(ConfigError, match="has no LynX blocks"):
        runtime_of(llava[0])


@torch.no_grad()
def test_a_tokens_result_does_not_depend_on_the_rest_of_the_batch(vlm):
    """Invariant 6, for a model whose pictures are one tensor row per prompt."""
    model, inputs = vlm
    peft_model = adapted(model)
    together = peft_model(**inputs).logits
    for row in range(2):
        alone = {k: v[row : row + 1] for k, v in inputs.items() if k not in ("pixel_values", "image_grid_thw")}
        per_row = len(inputs["pixel_values"]) // 2
        alone["pixel_values"] = inputs["pixel_values"][row * per_row : (row + 1) * per_row]
        if "image_grid_thw" in inputs:
            alone["image_grid_thw"] = inputs["image_grid_thw"][row : row + 1]
        there = inputs["attention_mask"][row].bool()
        torch.testing.assert_close(peft_model(**alone).logits[0][there], together[row][there], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_recording_shows_what_the_router_did_and_leaves_nothing(vlm):
    model, inputs = vlm
    peft_model = adapted(model)
    plain = peft_model(**inputs).logits
    with record_routing(peft_model) as routing:
        assert torch.equal(peft_model(**inputs).logits, plain)
    tokens = inputs["input_ids"].numel()
    assert list(routing) == list(lynx_layers(peft_model))
    for seen in routing.values():
        assert seen["weights_TK"].shape == seen["experts_TK"].shape == seen["gate"].shape == (tokens, 2)
        assert seen["rows"].tolist() == [True, True]
        assert seen["penalties"].keys() == {"sparsity", "balance"}
    assert runtime_of(peft_model).recorder is None


def test_recorded_routing_is_the_routers_own_choice(llava):
    """Oracle: scores computed from the block's input by hand."""
    model, inputs = llava
    peft_model = adapted(model)
    name, layer = next(iter(lynx_layers(peft_model).items()))
    seen_x = []
    layer.register_forward_pre_hook(lambda module, args: seen_x.append(args[0]))
    with torch.no_grad(), record_routing(peft_model) as routing:
        peft_model(**inputs)
    scores = seen_x[0].flatten(0, 1) @ layer.lynx_branch["default"].router_ED.T
    best = scores.topk(2, -1)
    assert torch.equal(routing[name]["experts_TK"], best.indices)
    torch.testing.assert_close(routing[name]["weights_TK"], best.values.sigmoid().detach())
