"""merge_and_unload: the same function in the base's own modules where there is one, the reason where there is none."""

import copy
import warnings

import pytest
import torch
import transformers
from torch import nn

from lynx_moe.adapter import LynxConfig, lynx_layers, set_gate
from lynx_moe.adapter.gated import GatedLayer
from lynx_moe.errors import CheckpointError, ExportError
from tests.adapter.speaking import adapted, make_it_speak
from tests.tiny import tiny_llava, tiny_llava_moe
from tests.zoo import ZOO, llava_around

# One expert that every token takes, behind one number per block.
ONE = {"num_experts": 1, "top_k": 1, "mix": "convex", "layers": "all"}


def merged_logits(peft_model, inputs, **how):
    """Logits of the live adapter and of the merged base."""
    with torch.no_grad():
        live = peft_model(**inputs).logits
        base = peft_model.merge_and_unload(**how)
        assert not any(isinstance(m, GatedLayer) for m in base.modules()) and not base._forward_pre_hooks
        assert not any(".lynx_" in name or "base_layer" in name for name in base.state_dict())
        return live, base(**inputs).logits


@pytest.mark.parametrize("attention_rank", [0, 2])
def test_one_expert_behind_one_number_becomes_width(vlm, attention_rank):
    model, inputs = vlm
    before, kinds = model(**inputs).logits, {n: type(m) for n, m in model.named_modules()}
    live, merged = merged_logits(adapted(model, **ONE, attention_rank=attention_rank), inputs)
    torch.testing.assert_close(merged, live, rtol=1e-5, atol=1e-5)
    assert (live - before).abs().max() > 0.1, "the adapter speaks, so the comparison can fail"
    assert {n: type(m) for n, m in model.named_modules()} == kinds


@pytest.mark.parametrize(
    "text",
    [
        ("phi3", {}),  # gate and up in one matrix
        ("llama", {"mlp_bias": True}),
        ("gemma", {"head_dim": 8}),  # another activation
    ],
    ids=lambda t: t[0],
)
def test_other_gated_ffns_fold_too(text):
    model, inputs = llava_around(text[0], **text[1])()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "mlp" in name and name.endswith("bias"):
                parameter.normal_()
    live, merged = merged_logits(adapted(model, **ONE), inputs)
    torch.testing.assert_close(merged, live, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["starcoder2, two matrices", "blip-2, opt"])
def test_plain_experts_fold_into_two_matrices_also_where_the_layer_spreads_them(name):
    model, inputs = ZOO[name]()
    with torch.no_grad():
        for part, parameter in model.named_parameters():
            if part.endswith("bias"):
                parameter.normal_(0, 0.3)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="the merged FFNs")
        live, merged = merged_logits(adapted(model, **ONE, expert_kind="plain"), inputs)
    torch.testing.assert_close(merged, live, rtol=1e-5, atol=1e-5)
    text = model.config.text_config
    assert 128 in (getattr(text, "ffn_dim", None), getattr(text, "intermediate_size", None)), "the config says it"


def test_a_uniformly_wider_model_is_saved_and_opened_by_transformers_alone(tmp_path):
    model, inputs = tiny_llava()
    peft_model = adapted(model, **ONE, expert_width=24)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        base = peft_model.merge_and_unload()
    assert base.config.text_config.intermediate_size == 64 + 24
    base.save_pretrained(tmp_path)
    opened = transformers.LlavaForConditionalGeneration.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(opened(**inputs).logits, base(**inputs).logits, rtol=1e-5, atol=1e-5)


def test_different_widths_are_said_not_to_be_savable():
    model, inputs = tiny_llava()
    peft_model = adapted(model, **{**ONE, "layers": [1]})
    with pytest.warns(UserWarning, match="64, 128 wide in different layers"):
        live, merged = merged_logits(peft_model, inputs)
    torch.testing.assert_close(merged, live, rtol=1e-5, atol=1e-5)


def test_merging_rounds_once_in_bfloat16():
    """Merged and live are two roundings of the same function: neither may be much further from it than the other."""
    model, inputs = tiny_llava()
    with torch.no_grad():
        exact = adapted(copy.deepcopy(model), **ONE, attention_rank=2)(**inputs).logits
    inputs = {k: v.bfloat16() if v.is_floating_point() else v for k, v in inputs.items()}
    live, merged = merged_logits(adapted(model.bfloat16(), **ONE, attention_rank=2), inputs)
    assert merged.dtype == torch.bfloat16
    assert (merged - exact).abs().mean() < 2 * (live - exact).abs().mean() < 0.1 * exact.abs().mean()


def test_several_adapters_fold_one_after_the_other_and_the_chosen_ones_only():
    model, inputs = tiny_llava()
    twin = copy.deepcopy(model)

    def both(vlm):
        peft_model = adapted(vlm, **ONE)
        peft_model.add_adapter("second", LynxConfig(**{**ONE, "mix": "token", "prompt_gate": "on"}, attention_rank=2))
        make_it_speak(peft_model, "second", seed=4)
        with torch.no_grad():
            for layer in lynx_layers(peft_model).values():
                layer.lynx_branch["second"].token_gate_D.zero_()  # the gate's bias alone: one number again
        return peft_model.eval()

    first = both(model)
    first.base_model.set_adapter(["default", "second"])
    live, merged = merged_logits(first, inputs)
    torch.testing.assert_close(merged, live, rtol=1e-5, atol=1e-5)

    one_of_two = both(twin)
    one_of_two.set_adapter("second")
    live = one_of_two(**inputs).logits
    one_of_two.set_adapter("default")
    torch.testing.assert_close(
        one_of_two.merge_and_unload(adapter_names=["second"])(**inputs).logits, live, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("settings", [{}, {"mix": "token"}, {"attention_rank": 2}, {"prompt_gate": "auto"}], ids=str)
def test_an_untrained_adapter_merges_to_the_base_bit_for_bit(llava, settings):
    from peft import get_peft_model

    model, inputs = llava
    with torch.no_grad():
        before = model(**inputs).logits
        peft_model = get_peft_model(model, LynxConfig(**{"prompt_gate": "on", **settings}))
        assert torch.equal(peft_model.merge_and_unload()(**inputs).logits, before)


@torch.no_grad()
def test_a_shut_gate_merges_to_the_base_bit_for_bit(llava):
    model, inputs = llava
    before = model(**inputs).logits
    merged = adapted(copy.deepcopy(model), prompt_gate="off", attention_rank=2).merge_and_unload()
    assert torch.equal(merged(**inputs).logits, before)
    forced = adapted(model, prompt_gate="auto")
    with set_gate(forced, False):
        merged = forced.merge_and_unload()
    assert torch.equal(merged(**inputs).logits, before)


@torch.no_grad()
def test_an_auto_gate_merges_as_it_is_forced(llava):
    model, inputs = llava
    peft_model = adapted(model, **ONE, prompt_gate="auto")
    with set_gate(peft_model, True):
        live, merged = merged_logits(peft_model, inputs)
    torch.testing.assert_close(merged, live, rtol=1e-5, atol=1e-5)


REFUSED = {
    "routing": ({"num_experts": 2, "top_k": 1, "mix": "convex"}, "a router chooses and weighs experts"),
    "all experts, weighed": ({"num_experts": 2, "top_k": 2, "mix": "convex"}, "a router chooses and weighs experts"),
    "additive weight": ({"num_experts": 1, "top_k": 1}, "the one expert is weighted for each token"),
    "token gate": ({"num_experts": 1, "top_k": 1, "mix": "token"}, "a gate of its own for each token"),
    "prompt gate": ({**ONE, "prompt_gate": "auto"}, "decides per prompt"),
}


@pytest.mark.parametrize("case", REFUSED)
@torch.no_grad()
def test_what_is_not_exact_is_refused_and_the_model_is_untouched(llava, case):
    settings, reason = REFUSED[case]
    model, inputs = llava
    peft_model = adapted(model, **settings, attention_rank=2)
    spoken, modules = peft_model(**inputs).logits, {n: id(m) for n, m in peft_model.named_modules()}
    state = {n: t.clone() for n, t in peft_model.state_dict().items()}
    with pytest.raises(ExportError, match=reason) as refusal:
        peft_model.merge_and_unload()
    assert "language_model.layers.0." in str(refusal.value) and "lynx_moe.export" in str(refusal.value)
    assert {n: id(m) for n, m in peft_model.named_modules()} == modules
    assert all(torch.equal(tensor, state[name]) for name, tensor in peft_model.state_dict().items())
    assert torch.equal(peft_model(**inputs).logits, spoken)


def test_a_gate_per_row_is_refused(llava):
    peft_model = adapted(llava[0], **ONE)
    with set_gate(peft_model, [True, False]), pytest.raises(ExportError, match="row by row"):
        peft_model.merge_and_unload()


@pytest.mark.parametrize(
    ("build", "reason"), [(tiny_llava_moe, "is no FFN of two or three"), (ZOO["blip-2, opt"], "expert_kind='plain'")]
)
def test_a_frozen_block_of_another_kind_is_refused(build, reason):
    with pytest.raises(ExportError, match=reason):
        adapted(build()[0], **ONE).merge_and_unload()


def test_an_ffn_that_does_more_than_its_projections_say_is_refused(llava):
    class Scaled(type(llava[0].model.language_model.layers[0].mlp)):
        def forward(self, x):
            return super().forward(x) * 1.01

    for layer in llava[0].model.language_model.layers:
        layer.mlp.__class__ = Scaled
    peft_model = adapted(llava[0], **ONE)
    with pytest.raises(ExportError, match="computes something else"):
        peft_model.merge_and_unload()


def test_quantised_or_wrapped_linears_are_refused(llava):
    class Packed(nn.Linear):
        pass

    llava[0].model.language_model.layers[0].self_attn.q_proj.__class__ = Packed
    with pytest.raises(ExportError, match="only a plain nn.Linear"):
        adapted(llava[0], prompt_gate="on", attention_rank=2, **ONE).merge_and_unload()


def test_a_broken_adapter_is_named_when_asked_for_a_safe_merge(llava):
    peft_model = adapted(llava[0], **ONE)
    with torch.no_grad():
        peft_model.get_submodule("base_model.model.model.language_model.layers.2.mlp").lynx_branch[
            "default"
        ].gate_up_EFD[0, 0] = torch.nan
    with pytest.raises(ValueError, match="NaNs detected in the merged weights. The adapter default seems to be broken"):
        peft_model.merge_and_unload(safe_merge=True)
    with pytest.raises(CheckpointError):
        peft_model.merge_and_unload(safe_merge=True)
    assert len(lynx_layers(peft_model)) == 4
