"""Route "native": an architecture transformers has holds the live model with its gate on."""

import pytest
import torch
import transformers
from transformers import AutoModelForImageTextToText

from lynx_moe.errors import ExportError
from lynx_moe.export import native
from lynx_moe.export.read import read
from tests.adapter.speaking import adapted
from tests.export.exporting import export_of, logits, with_fitted_gate
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
    "one expert": (tiny_llava, {"num_experts": 1, "top_k": 1}, "glm4_moe"),
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


def test_fresh_process_without_this_library_gives_the_live_logits(tmp_path):
    model, inputs = tiny_llava()
    model = with_fitted_gate(model, inputs)
    report = export_of(model, inputs, tmp_path / "out", route="native")
    assert (report["route"], report["host"], report["prompt_gate"]) == ("native", "glm4_moe", "on")
    assert report["loaded_without_lynx_moe"] and report["generation_equal"]
    assert report["max_abs_logit_diff"] < 1e-5
    assert report["base_tensors"]["folded"] == 0


@pytest.mark.parametrize("case", HELD)
def test_host_holds_the_live_model_with_its_gate_on(case, tmp_path, quick_check):
    build, settings, host = HELD[case]
    vlm, inputs = build()
    model = adapted(vlm, **settings)
    base = logits(model, inputs, gate=False)
    report = export_of(model, inputs, tmp_path / "out", route="native")
    assert report["host"] == host
    exported = AutoModelForImageTextToText.from_pretrained(tmp_path / "out").eval()
    assert type(exported) is type(vlm)
    torch.testing.assert_close(logits(exported, inputs), logits(model, inputs, gate=True), atol=1e-5, rtol=1e-5)
    assert (logits(exported, inputs) - base).abs().max() > 1e-2


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
