"""Route "dense": the base's own class and form, wider, without code; what is no width is refused with the reason."""

from dataclasses import dataclass

import pytest
import torch
import transformers
from transformers import AutoModelForImageTextToText

from lynx_moe.adapter import LynxConfig, lynx_layers
from lynx_moe.adapter.attaching import attach_adapter
from lynx_moe.errors import ExportError
from lynx_moe.export import dense
from lynx_moe.export.built import account, instantiate
from lynx_moe.export.fresh import taken_out, tensor_sha256
from lynx_moe.export.read import read
from tests.adapter.speaking import adapted
from tests.export.exporting import export_of, logits, with_fitted_gate
from tests.tiny import llava_config, tiny_llava, tiny_llava_moe
from tests.zoo import ZOO, llava_around


def calm(build):
    """With weights as they are usually drawn: T5 does not scale its scores, and in larger ones float32's own rounding
    grows beyond the bound (the live model is 6e-4 away from itself in float64)."""

    def built():
        vlm, inputs = build()
        with torch.no_grad():
            for parameter in vlm.parameters():
                if parameter.ndim > 1:
                    parameter.div_(3.0)
        return vlm, inputs

    return built


# One expert that every token takes, behind one number per block, in every other layer.
ONE = {"num_experts": 1, "top_k": 1, "mix": "convex"}
GATED, PLAIN = {"expert_kind": "gated"}, {"expert_kind": "plain"}

# The config's field that says the width is part of the promise: found by trying, and a wrong one would load as well.
FOLDED = {
    "llava": (ZOO["llava"], GATED, "text_config.intermediate_size"),
    "qwen2_5_vl": (ZOO["qwen2_5_vl"], GATED, "text_config.intermediate_size"),
    "smolvlm": (ZOO["smolvlm"], GATED, "text_config.intermediate_size"),
    "internvl, qwen2": (ZOO["internvl, qwen2"], GATED, "text_config.intermediate_size"),
    "paligemma, gemma": (ZOO["paligemma"], GATED, "text_config.intermediate_size"),
    "gemma2": (llava_around("gemma2", head_dim=8), GATED, "text_config.intermediate_size"),
    "gemma3": (ZOO["gemma3"], GATED, "text_config.intermediate_size"),
    "mllama, layers of cross-attention": (ZOO["mllama"], GATED, "text_config.intermediate_size"),
    "mistral": (llava_around("mistral"), GATED, "text_config.intermediate_size"),
    "qwen3": (llava_around("qwen3", head_dim=8), GATED, "text_config.intermediate_size"),
    "phi3, fused": (ZOO["phi3, fused"], GATED, "text_config.intermediate_size"),
    "glm, fused": (llava_around("glm", head_dim=8), GATED, "text_config.intermediate_size"),
    "llama with biases": (llava_around("llama", mlp_bias=True), GATED, "text_config.intermediate_size"),
    "olmo2, norms after": (ZOO["olmo2, norms after"], GATED, "text_config.intermediate_size"),
    "cohere, parallel": (ZOO["cohere, parallel"], GATED, "text_config.intermediate_size"),
    "blip-2, opt": (ZOO["blip-2, opt"], PLAIN, "text_config.ffn_dim"),
    "blip-2, t5, encoder as wide": (calm(ZOO["blip-2, t5"]), PLAIN, "text_config.d_ff"),
    "florence2, encoder of its own width": (ZOO["florence2"], PLAIN, "text_config.decoder_ffn_dim"),
    "blip, bert": (ZOO["blip, bert"], PLAIN, "text_config.intermediate_size"),
    "git, bert": (ZOO["git, bert"], PLAIN, "intermediate_size"),
    "fuyu, persimmon": (ZOO["fuyu"], PLAIN, "text_config.intermediate_size"),
    "phi": (llava_around("phi"), PLAIN, "text_config.intermediate_size"),
    "gpt_neox, parallel residual": (ZOO["gpt_neox, parallel residual"], PLAIN, "text_config.intermediate_size"),
    "starcoder2 with biases": (ZOO["starcoder2, two matrices"], PLAIN, "text_config.intermediate_size"),
    "nemotron": (llava_around("nemotron"), PLAIN, "text_config.intermediate_size"),
}
BY_DEFAULT = ("smolvlm", "phi3, fused", "blip-2, opt", "git, bert")
TURNS = [pytest.param(case, marks=() if case in BY_DEFAULT else pytest.mark.slow) for case in FOLDED]


@dataclass
class Exported:
    model: torch.nn.Module
    info: dict
    tensors: dict
    counts: dict
    promise: dense.Promise


def through_a_folder(model, folder) -> Exported:
    """The model as `build` describes it, saved and opened by transformers alone."""
    found = read(model)
    assert dense.refusal(found) is None
    hashes = {name: tensor_sha256(tensor) for name, tensor in found.base_state().items()}
    built = dense.build(found, folder)
    tensors, counts = account(built, hashes)
    made = instantiate(built)
    made.save_pretrained(folder)
    classes = AutoModelForImageTextToText._model_mapping.values()
    opener = AutoModelForImageTextToText if type(made) in classes else type(made)
    opened, info = opener.from_pretrained(folder, output_loading_info=True)
    return Exported(opened.eval(), info, tensors, counts, dense.promise(found))


@pytest.mark.parametrize("case", TURNS)
def test_the_bases_own_class_holds_the_live_model_within_the_bound(case, tmp_path):
    build, kind, field = FOLDED[case]
    vlm, inputs = build()
    with torch.no_grad():
        for name, parameter in vlm.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.3, generator=torch.Generator().manual_seed(3))
    before = {name: tensor.clone() for name, tensor in vlm.state_dict().items()}
    model = adapted(vlm, **ONE, **kind, attention_rank=2)
    live, base = logits(model, inputs), logits(model, inputs, gate=False)
    out = through_a_folder(model, tmp_path)
    assert type(out.model) is type(vlm)
    assert not out.info["missing_keys"] and not out.info["unexpected_keys"] and not out.info["mismatched_keys"]
    assert (out.promise.exactness, out.promise.bound) == ("rounding", 1e-5)
    assert any(cost.startswith(f"config.{field} becomes") for cost in out.promise.costs)
    found = logits(out.model, inputs)
    assert (found - live).abs().max() <= 1e-5 * live.abs().max().clamp_min(1.0)
    assert (live - base).abs().max() > 0.1, "the adapter speaks, so the comparison can fail"
    frozen_bytes_are_where_it_is_said(out, before)


def frozen_bytes_are_where_it_is_said(out: Exported, before: dict) -> None:
    after, kept = out.model.state_dict(), 0
    for name, entry in out.tensors.items():
        tensor = after[name]
        undo = entry.get("undo", {"spans": [], "factor": 1.0, "rank": 0})
        only_wider = bool(undo["spans"]) and undo["factor"] == 1.0 and not undo["rank"]
        if only_wider:
            tensor = taken_out(tensor, undo)
            assert tensor.shape != after[name].shape
            kept += 1
        if undo["factor"] != 1.0:
            torch.testing.assert_close(taken_out(tensor, undo) / undo["factor"], before[name], atol=0, rtol=1e-6)
        if only_wider or "fold" not in entry:
            assert tensor_sha256(tensor) == tensor_sha256(before[name]), name
    assert kept == out.counts["widened"] > 0


def test_without_a_block_alpha_every_byte_of_the_base_is_there(tmp_path):
    """A token gate that is the same for every token scales the new experts only."""
    vlm, inputs = tiny_llava()
    before = {name: tensor.clone() for name, tensor in vlm.state_dict().items()}
    model = adapted(vlm, num_experts=1, top_k=1, mix="token")
    with torch.no_grad():
        for layer in lynx_layers(model).values():
            layer.lynx_branch["default"].token_gate_D.zero_()
    out = through_a_folder(model, tmp_path)
    assert out.counts == {"unchanged": len(before) - 12, "folded": 12, "widened": 12}, "gate, up and down of 4 layers"
    frozen_bytes_are_where_it_is_said(out, before)
    live = logits(model, inputs)
    torch.testing.assert_close(logits(out.model, inputs), live, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def constant(model, case):
    """Make the routers of several experts choose and weigh nothing, each in another way."""
    for layer in lynx_layers(model).values():
        branch = layer.lynx_branch["default"]
        if case == "router of one row":
            branch.router_ED[:] = branch.router_ED[:1]
        elif case == "one expert, many times":
            branch.gate_up_EFD[:] = branch.gate_up_EFD[:1]
            branch.down_EDF[:] = branch.down_EDF[:1]
        elif case == "null experts beside one with a constant weight":
            branch.router_ED[1].zero_()
            branch.down_EDF[[0, 2]] = 0
    return model


CONSTANT = {
    "router of one row": ({"mix": "convex", "num_experts": 3, "top_k": 3}, 3),
    "one expert, many times": ({"mix": "convex", "num_experts": 3, "top_k": 2}, 1),
    "null experts beside one with a constant weight": ({"mix": "additive", "num_experts": 3, "top_k": 3}, 1),
}


@pytest.mark.parametrize("case", CONSTANT)
def test_several_experts_that_provably_weigh_alike_become_width(case, tmp_path):
    settings, live_experts = CONSTANT[case]
    vlm, inputs = tiny_llava()
    model = constant(adapted(vlm, **settings, expert_width=8), case)
    out = through_a_folder(model, tmp_path)
    assert out.model.config.text_config.intermediate_size == 64 + 8 * live_experts
    live = logits(model, inputs)
    torch.testing.assert_close(logits(out.model, inputs), live, atol=1e-5, rtol=1e-5)
    assert (live - logits(model, inputs, gate=False)).abs().max() > 0.1


def test_a_prompt_gate_ships_open_and_the_promise_says_so(tmp_path):
    vlm, inputs = tiny_llava()
    model = with_fitted_gate(vlm, inputs, **ONE)
    out = through_a_folder(model, tmp_path)
    assert "no per-prompt gate" in out.promise.keeps and "measure retention" in out.promise.costs[0]
    torch.testing.assert_close(logits(out.model, inputs), logits(model, inputs, gate=True), atol=1e-5, rtol=1e-5)


def test_an_untrained_adapter_is_the_base_bit_for_bit(tmp_path):
    vlm, inputs = tiny_llava()
    base = logits(vlm, inputs)
    out = through_a_folder(attach_adapter(vlm, LynxConfig(prompt_gate="on")), tmp_path)
    assert (out.promise.exactness, out.promise.bound) == ("bitwise", 0.0)
    assert out.counts["folded"] == 0 and torch.equal(logits(out.model, inputs), base)


def test_half_precision_rounds_once(tmp_path):
    vlm, inputs = tiny_llava()
    exact = logits(adapted(vlm, **ONE), inputs)
    vlm = tiny_llava()[0].bfloat16()
    inputs = {k: v.bfloat16() if v.is_floating_point() else v for k, v in inputs.items()}
    model = adapted(vlm, **ONE)
    live, found = logits(model, inputs).float(), logits(through_a_folder(model, tmp_path).model, inputs)
    assert found.dtype == torch.bfloat16
    assert (found.float() - exact).abs().mean() < 2 * (live - exact).abs().mean()


def tiny_gemma3n():
    """A list of widths, one per layer, and FFNs that cut off what is small across their whole width."""
    text = {
        "vocab_size": 128, "hidden_size": 32, "intermediate_size": [64, 64, 48, 64], "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "vocab_size_per_layer_input": 128,
        "hidden_size_per_layer_input": 8, "num_kv_shared_layers": 0, "laurel_rank": 4, "altup_num_inputs": 2,
        "layer_types": ["sliding_attention", "full_attention"] * 2, "activation_sparsity_pattern": [0.9, 0.0, 0.0, 0.9],
    }  # fmt: skip
    config = transformers.Gemma3nTextConfig(**text)
    torch.manual_seed(0)
    model = transformers.Gemma3nForCausalLM(config).eval().requires_grad_(False)
    return model, {"input_ids": torch.arange(10, 22).view(2, 6)}


def test_a_width_per_layer_is_said_per_layer_and_nothing_is_filled(tmp_path):
    vlm, inputs = tiny_gemma3n()
    model = adapted(vlm, **ONE, layers=[2], expert_width=8)
    out = through_a_folder(model, tmp_path)
    assert out.model.config.intermediate_size == [64, 64, 56, 64]
    assert "filled with zeros" not in " ".join(out.promise.costs)
    live = logits(model, inputs)
    torch.testing.assert_close(logits(out.model, inputs), live, atol=1e-5, rtol=1e-5)
    assert (live - logits(model, inputs, gate=False)).abs().max() > 1e-2


REFUSED = {
    "a router that chooses": (tiny_llava, {"mix": "convex", "num_experts": 2, "top_k": 1}, "a router chooses"),
    "a weight per token": (tiny_llava, {"num_experts": 1, "top_k": 1}, "weighted for each token"),
    "a gate per token": (tiny_llava, {"num_experts": 1, "top_k": 1, "mix": "token"}, "gate of its own for each token"),
    "gate off": (tiny_llava, {**ONE, "prompt_gate": "off"}, "the export would be the base itself"),
    "gated experts, plain base": (ZOO["blip-2, opt"], ONE, "two matrices and no gate"),
    "plain experts, gated base": (tiny_llava, {**ONE, **PLAIN}, "the frozen FFN is gated"),
    "frozen mixture": (tiny_llava_moe, ONE, "Qwen2MoeSparseMoeBlock is no FFN"),
    "norm inside the FFN": (ZOO["kosmos-2"], {**ONE, **PLAIN}, "also sizes"),
    "width shared with a mixture": (ZOO["jamba, mamba and MoE"], ONE, "also sizes"),
    "FFN that reads its whole width": (tiny_gemma3n, {**ONE, "layers": [0]}, "computes something else"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_width_is_refused_with_the_reason(case, tmp_path):
    build, settings, reason = REFUSED[case]
    model = adapted(build()[0], **settings)
    assert reason in dense.refusal(read(model))
    assert not any(tmp_path.iterdir())


def test_build_without_asking_first_is_refused_too(tmp_path):
    with pytest.raises(ExportError, match="wider FFNs") as refused:
        dense.build(read(adapted(ZOO["kosmos-2"]()[0], **ONE, **PLAIN)), tmp_path)
    assert "ffn_layernorm" in refused.value.why


def test_plan_of_a_base_without_weights_says_the_same(tmp_path):
    """A base on the meta device has shapes and no values: what it says must hold for any trained adapter."""
    config = llava_config()
    with torch.device("meta"):
        vlm = transformers.LlavaForConditionalGeneration(config)
    found = read(attach_adapter(vlm, LynxConfig(prompt_gate="on", **ONE)))
    assert dense.refusal(found) is None and dense.promise(found).exactness == "rounding"
    built = dense.build(found, tmp_path)
    assert built.tensors["model.language_model.layers.0.mlp.up_proj.weight"].shape == (128, 32)
    with torch.device("meta"):
        vlm = transformers.LlavaForConditionalGeneration(config)
    assert "a router chooses" in dense.refusal(read(attach_adapter(vlm, LynxConfig(prompt_gate="on"))))


@pytest.mark.slow
def test_auto_takes_it_and_a_fresh_process_without_this_library_gives_the_live_logits(tmp_path):
    vlm, inputs = tiny_llava()
    report = export_of(adapted(vlm, **ONE, layers="all"), inputs, tmp_path / "out")
    assert (report["route"], report["prompt_gate"]) == ("dense", "on")
    assert report["loaded_without_lynx_moe"] and report["generation_equal"]
    assert report["max_abs_logit_diff"] < 1e-5
    assert not list((tmp_path / "out").glob("*.py"))


def test_plain_experts_that_choose_go_out_as_code_and_it_is_said_why(tmp_path, quick_check):
    vlm, inputs = llava_around("starcoder2", use_bias=True)()
    model = adapted(vlm, **PLAIN)
    report = export_of(model, inputs, tmp_path / "out")
    assert report["route"] == "code" and report["max_abs_logit_diff"] == 0.0
    assert "a router chooses" in report["better"]["dense"]
    shape = read(model).branch("model.language_model.layers.0.mlp").gate_up_EFD.shape
    assert shape == (4, 16, 32), "experts of one map first, not of two"
