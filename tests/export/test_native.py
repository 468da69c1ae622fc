"""Route "native": an architecture transformers has holds the live model with its gate on."""

import pytest
import torch
import transformers
from transformers import AutoModelForImageTextToText

from lynx_moe.errors import ExportError
from lynx_moe.export import native, take_back
from lynx_moe.export.read import read
from lynx_moe.export.verify import TOLERANCE
from tests.adapter.speaking import adapted
from tests.export.exporting import export_of, logits, with_fitted_gate
from tests.export.shells import shell, tiny_qwen3_5
from tests.tiny import TEXT, _build, llava_config, tiny_internvl, tiny_llava, tiny_qwen2_5_vl, tiny_smolvlm


def llava_around(text_config):
    config = llava_config()
    config = transformers.LlavaConfig(
        vision_config=config.vision_config, text_config=text_config, image_token_index=3, vision_feature_layer=-1
    )
    model = _build(transformers.LlavaForConditionalGeneration, config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.3, generator=torch.Generator().manual_seed(3))
    return model, tiny_llava()[1]


HELD = {
    "llama additive": (tiny_llava, {}, "glm4_moe"),
    "llama convex": (tiny_llava, {"mix": "convex"}, "qwen2_moe"),
    "llama convex, last layer only": (tiny_llava, {"mix": "convex", "layers": [3]}, "qwen2_moe"),
    "deltas on attention": (tiny_llava, {"attention_rank": 3}, "glm4_moe"),
    "deltas on attention with biases": (
        lambda: llava_around(transformers.Qwen2Config(**TEXT)),
        {"mix": "convex", "attention_rank": 3},
        "qwen2_moe",
    ),
    "one expert, every layer": (tiny_llava, {"num_experts": 1, "top_k": 1, "layers": "all"}, "glm4_moe"),
    "one expert and a null expert, any layers": (tiny_llava, {"num_experts": 1, "top_k": 1}, "qwen2_moe"),
    "biased attention output, convex": (lambda: tiny_llava(attention_bias=True), {"mix": "convex"}, "granitemoeshared"),
    "qwen3.5, convex": (tiny_qwen3_5, {"mix": "convex"}, "qwen3_5_moe"),
    "cohere2, additive in some layers": (
        lambda: shell("aya_vision", "cohere2"),
        {"layers": [0, 2], "expert_width": 24},
        "cohere2_moe",
    ),
    "expert width that divides nothing": (tiny_llava, {"expert_width": 24}, "glm4_moe"),
    "smolvlm convex": (tiny_smolvlm, {"mix": "convex"}, "qwen2_moe"),
    "internvl with qwen2": (tiny_internvl, {"layers": "upper_half"}, "glm4_moe"),
    "tied embeddings": (lambda: tiny_llava(tie_word_embeddings=True), {}, "glm4_moe"),
    "qwen2 with biases, convex": (
        lambda: llava_around(transformers.Qwen2Config(**TEXT)),
        {"mix": "convex"},
        "qwen2_moe",
    ),
    "qwen3": (lambda: llava_around(transformers.Qwen3Config(**TEXT, head_dim=16)), {}, "glm4_moe"),
}


@pytest.mark.slow
def test_fresh_process_without_this_library_gives_the_live_logits(tmp_path):
    model, inputs = tiny_llava()
    model = with_fitted_gate(model, inputs)
    report = export_of(model, inputs, tmp_path / "out", route="native")
    assert (report["route"], report["host"], report["prompt_gate"]) == ("native", "glm4_moe", "on")
    assert report["loaded_without_lynx_moe"] and report["generation_equal"]
    assert report["max_abs_logit_diff"] < 1e-5
    assert report["base_tensors"]["folded"] == 0


# Cases that were always there, and one of each host, are in the default run.
RARE = (
    "llama convex, last layer only",
    "expert width that divides nothing",
    "smolvlm convex",
    "tied embeddings",
    "deltas on attention with biases",
    "internvl with qwen2",
    "one expert, every layer",
)


def held(cases):
    return [pytest.param(case, marks=pytest.mark.slow if case in RARE else ()) for case in cases]


@pytest.mark.parametrize("case", held(HELD))
def test_host_holds_the_live_model_with_its_gate_on(case, tmp_path, quick_check):
    build, settings, host = HELD[case]
    vlm, inputs = build()
    model = adapted(vlm, **settings)
    base = logits(model, inputs, gate=False)
    report = export_of(model, inputs, tmp_path / "out", route="native")
    assert report["host"] == host
    exported = AutoModelForImageTextToText.from_pretrained(tmp_path / "out").eval()
    # Qwen3.5's host is another class around the same vision tower.
    assert type(exported) is type(vlm) or host == "qwen3_5_moe"
    torch.testing.assert_close(logits(exported, inputs), logits(model, inputs, gate=True), atol=1e-5, rtol=1e-5)
    assert (logits(exported, inputs) - base).abs().max() > 1e-2


@pytest.mark.parametrize(
    ("build", "settings"),
    [
        (tiny_llava, {}),
        pytest.param(tiny_llava, {"mix": "convex", "top_k": 4}, marks=pytest.mark.slow),
        pytest.param(tiny_llava, {"num_experts": 1, "top_k": 1}, marks=pytest.mark.slow),
        pytest.param(lambda: shell("llava_next", "granite"), {"num_experts": 1, "top_k": 1}, marks=pytest.mark.slow),
        pytest.param(lambda: shell("cohere2_vision", "cohere2"), {"top_k": 4}, marks=pytest.mark.slow),
        pytest.param(tiny_qwen3_5, {"num_experts": 1, "top_k": 1}, marks=pytest.mark.slow),
    ],
)
def test_bfloat16_is_held_and_the_factor_two_is_exact_in_it(build, settings, tmp_path, quick_check):
    vlm, inputs = build()
    vlm = vlm.to(torch.bfloat16)
    inputs = {name: v.bfloat16() if v.is_floating_point() else v for name, v in inputs.items()}
    before = {name: tensor.clone() for name, tensor in vlm.state_dict().items()}
    model = adapted(vlm, **settings)
    live = logits(model, inputs, gate=True)
    report = export_of(model, inputs, tmp_path / "out", route="native", new_tokens=2)
    exported = AutoModelForImageTextToText.from_pretrained(tmp_path / "out", dtype="auto").eval()
    assert exported.dtype == torch.bfloat16
    assert report["max_abs_logit_diff"] <= TOLERANCE["bfloat16"] * live.abs().max().clamp(min=1)
    if settings.get("mix") != "convex":
        found = take_back(tmp_path / "out", out=tmp_path / "back")
        assert found["exact"] and found["base_tensors"]["exact"] == len(before)


def test_layers_without_new_experts_cost_nothing_where_the_host_can_leave_them_out():
    model = adapted(tiny_llava()[0], num_experts=1, top_k=1, layers=[1])
    promised = native.promise(read(model))
    assert promised.host == "qwen2_moe" and "idle" not in " ".join(promised.costs)
    assert "times two" in " ".join(promised.costs)
    model = adapted(tiny_llava()[0], layers=[0])
    assert "3 layers without new experts" in " ".join(native.promise(read(model)).costs)


def test_half_precision_hosts_that_may_choose_another_expert_say_so():
    vlm = tiny_llava()[0].to(torch.bfloat16)
    said = native.promise(read(adapted(vlm, mix="convex"))).costs
    assert any("may choose the other" in cost for cost in said)
    vlm = tiny_llava()[0].to(torch.bfloat16)
    assert not any("may choose" in cost for cost in native.promise(read(adapted(vlm))).costs), (
        "glm4_moe scores in float32"
    )


SERVED = {
    "by its own decoder": (tiny_llava, {}, "yes, by source"),
    "with a decoder of vLLM's choice": (tiny_smolvlm, {}, "no: it builds LlamaModel"),
    "biases that vLLM's host has not": (lambda: tiny_llava(attention_bias=True), {"mix": "convex"}, "no biases"),
    "another activation": (lambda: tiny_llava(hidden_act="gelu"), {}, "silu only"),
}


@pytest.mark.parametrize("case", SERVED)
def test_promise_says_what_vllm_does_with_it_by_its_source(case):
    build, settings, words = SERVED[case]
    served = native.promise(read(adapted(build()[0], **settings))).served_by
    assert words in served["vllm"] and served["transformers"] == "yes" and served["sglang"] == "unknown"


def test_exported_base_tensors_are_the_base_after_undoing_alpha(tmp_path, quick_check):
    untouched = tiny_llava()[0].state_dict()
    vlm, inputs = tiny_llava()
    model = adapted(vlm, mix="convex")
    export_of(model, inputs, tmp_path / "out", route="native")
    exported = AutoModelForImageTextToText.from_pretrained(tmp_path / "out").state_dict()
    alphas = {layer: read(model).weights_of(layer).alpha for layer in (0, 2)}
    for name, tensor in untouched.items():
        layer = int(name.split(".layers.")[1].split(".")[0]) if "language_model.layers" in name else None
        wrapped = layer in alphas and ".mlp." in name
        found = exported[name.replace(".mlp.", ".mlp.shared_expert.") if wrapped else name]
        if wrapped and "down_proj" in name:
            torch.testing.assert_close(found / (2 * alphas[layer]), tensor, atol=0, rtol=1e-6)
        else:
            assert torch.equal(found, tensor), name


def test_deltas_are_counted_as_folded_and_nothing_else_is(tmp_path, quick_check):
    vlm, inputs = tiny_llava()
    model = adapted(vlm, layers=[1, 3], attention_rank=2)
    report = export_of(model, inputs, tmp_path / "out", route="native")
    assert report["base_tensors"]["folded"] == 3 * 4, "q, k, v and o of layers 1, 2 and 3"
    assert "attention matrices" in " ".join(report["reasons"])


REFUSED = {
    "token mix": (tiny_llava, {"mix": "token"}, "the mix here is 'token'"),
    "closed text slot": (tiny_qwen2_5_vl, {}, "accepts no other text architecture"),
    "gate off": (tiny_llava, {"prompt_gate": "off"}, "the prompt gate is off"),
    "biased ffn": (lambda: tiny_llava(mlp_bias=True), {}, "biases"),
    "biased attention output": (lambda: tiny_llava(attention_bias=True), {}, "attention output has a bias"),
    "normalised queries, convex": (
        lambda: llava_around(transformers.Qwen3Config(**TEXT, head_dim=16)),
        {"mix": "convex"},
        "normalises queries",
    ),
    "sliding window": (lambda: llava_around(transformers.MistralConfig(**TEXT, sliding_window=8)), {}, "sliding"),
    "other decoder": (lambda: llava_around(transformers.Phi3Config(**TEXT)), {}, "'phi3'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_no_host_holds_is_refused_with_the_reason_and_the_next_best_way(case, tmp_path):
    build, settings, reason = REFUSED[case]
    vlm, inputs = build()
    with pytest.raises(ExportError) as refused:
        export_of(adapted(vlm, **settings), inputs, tmp_path / "out", route="native")
    assert reason in refused.value.why
    assert "route='code'" in refused.value.fix
    assert not any(tmp_path.iterdir())


def test_every_host_is_reached_by_some_model():
    assert {host for _, _, host in HELD.values()} == set(native.HOSTS.names())
