"""Route "vllm": what is written for vLLM's qwen3_vl_moe, held against a forward that follows vLLM's rules."""

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from lynx_moe.errors import CheckpointError, ExportError
from lynx_moe.export import plan, take_back, verify, vllm
from lynx_moe.export.read import read
from lynx_moe.loading import load
from tests.adapter.speaking import adapted
from tests.export import vllm_reference
from tests.export.exporting import export_of, logits, with_fitted_gate
from tests.tiny import QWEN_TOKENS, TEXT, _build, qwen_inputs, tiny_llava

VISION = {
    "depth": 2,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_heads": 2,
    "out_hidden_size": 32,
    "patch_size": 4,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "num_position_embeddings": 16,
    "deepstack_visual_indexes": [0, 1],
}
ROPE = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}


def tiny_qwen3_vl(**outer):
    config = transformers.Qwen3VLConfig(
        vision_config=VISION, text_config={**TEXT, "head_dim": 8, "rope_parameters": ROPE}, **QWEN_TOKENS, **outer
    )
    model = _build(transformers.Qwen3VLForConditionalGeneration, config)
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name and parameter.ndim == 1:
                parameter.uniform_(0.5, 1.5, generator=draw)
    return model, qwen_inputs()


@torch.no_grad()
def by_the_rules(folder, model, inputs):
    """Logits of the written folder; the picture's features and the positions are those that the decoder was given."""
    seen = {}
    decoder = model.get_base_model().model.language_model
    hook = decoder.register_forward_pre_hook(lambda module, args, given: seen.update(given), with_kwargs=True)
    logits(model, inputs, gate=True)
    hook.remove()
    deep = []
    for features in seen["deepstack_visual_embeds"]:
        deep.append(torch.zeros_like(seen["inputs_embeds"]))
        deep[-1][seen["visual_pos_masks"]] = features
    positions = seen["position_ids"][-3:]
    return vllm_reference.logits(folder, seen["inputs_embeds"], positions, inputs["attention_mask"], deep)


HELD = {
    "convex": {"mix": "convex", "layers": [1, 2]},
    "convex, every expert": {"mix": "convex", "top_k": 4, "layers": "all"},
    "one additive expert and a null expert": {"num_experts": 1, "top_k": 1, "layers": [0, 3]},
    "deltas on attention": {"mix": "convex", "attention_rank": 2, "layers": [1]},
}


@pytest.mark.parametrize("case", [pytest.param(c, marks=pytest.mark.slow if i else ()) for i, c in enumerate(HELD)])
def test_written_folder_gives_the_live_logits_by_the_rules_of_vllm(case, tmp_path):
    vlm, inputs = tiny_qwen3_vl(tie_word_embeddings=case == "deltas on attention")
    model = adapted(vlm, **HELD[case])
    live, shut = logits(model, inputs, gate=True), logits(model, inputs, gate=False)
    report = export_of(model, inputs, tmp_path / "out", route="vllm")
    assert (report["route"], report["host"], report["prompt_gate"]) == ("vllm", "qwen3_vl_moe", "on")
    assert not report["loaded_without_lynx_moe"]
    words = inputs["attention_mask"].bool()
    found = by_the_rules(tmp_path / "out", model, inputs)[words]
    size = live[words].abs().max()
    assert (found - live[words]).abs().max() <= 1e-5 * size
    assert (found - shut[words]).abs().max() > 1e-3 * size


@pytest.mark.slow
def test_reference_notices_a_missing_factor_two(tmp_path):
    from safetensors.torch import save_file

    vlm, inputs = tiny_qwen3_vl()
    model = adapted(vlm, mix="convex")
    export_of(model, inputs, tmp_path / "out", route="vllm")
    path = tmp_path / "out" / "model.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if name.endswith("shared_expert.down_proj.weight"))
    save_file(tensors | {name: tensors[name] / 2}, path, metadata={"format": "pt"})
    words = inputs["attention_mask"].bool()
    wrong = by_the_rules(tmp_path / "out", model, inputs)[words] - logits(model, inputs, gate=True)[words]
    assert wrong.abs().max() > 1e-2


def test_folder_has_the_layout_of_the_hub_and_says_who_can_read_it(tmp_path):
    vlm, inputs = tiny_qwen3_vl()
    export_of(with_fitted_gate(vlm, inputs, mix="convex"), inputs, tmp_path / "out", route="vllm")
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    inside = "model.language_model.layers.0.mlp"
    assert tensors[f"{inside}.experts.gate_up_proj"].shape == (4, 32, 32), "experts, model width, gate over up"
    assert tensors[f"{inside}.experts.down_proj"].shape == (4, 16, 32)
    assert not tensors[f"{inside}.shared_expert_gate.weight"].any()
    assert "model.language_model.layers.1.mlp.gate_proj.weight" in tensors
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["text_config"]["mlp_only_layers"] == [1, 3]
    assert config["text_config"]["shared_expert_intermediate_size"] == 64
    assert "vLLM only" in config["lynx_moe"]
    assert "transformers cannot load this folder" in (tmp_path / "out" / "README.md").read_text()
    assert json.loads((tmp_path / "out" / "lynx_export.json").read_text())["route"] == "vllm"
    assert verify(tmp_path / "out")["ok"]
    with pytest.raises(CheckpointError, match="for vLLM only"):
        load(tmp_path / "out")


@pytest.mark.slow
def test_transformers_would_leave_the_shared_experts_out(tmp_path):
    """Why the route is marked as it is: should this fail one day, transformers can read it and the mark is wrong."""
    vlm, inputs = tiny_qwen3_vl()
    export_of(adapted(vlm, mix="convex"), inputs, tmp_path / "out", route="vllm")
    _, info = AutoModelForImageTextToText.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert any("shared_expert" in name for name in info["unexpected_keys"])


@pytest.mark.slow
def test_tensor_that_is_not_written_as_it_was_built_is_not_kept(tmp_path, monkeypatch):
    honest = vllm.read_tensors

    def with_a_changed_weight(folder):
        tensors = honest(folder)
        return tensors | {"lm_head.weight": tensors["lm_head.weight"] * 1.001}

    monkeypatch.setattr(vllm, "read_tensors", with_a_changed_weight)
    vlm, inputs = tiny_qwen3_vl()
    with pytest.raises(ExportError, match="changed tensors: lm_head.weight"):
        export_of(adapted(vlm, mix="convex"), inputs, tmp_path / "out", route="vllm")
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_deltas_are_verified_with_the_base_and_by_hashes_without(tmp_path):
    vlm, inputs = tiny_qwen3_vl()
    vlm.save_pretrained(tmp_path / "base")
    export_of(adapted(vlm, mix="convex", attention_rank=2), inputs, tmp_path / "out", route="vllm")
    assert "max_abs_logit_diff" not in verify(tmp_path / "out")
    found = verify(tmp_path / "out", base=tmp_path / "base")
    assert found["ok"] and found["max_abs_logit_diff"] < 1e-4


@pytest.mark.slow
def test_vllm_export_comes_back_as_base_and_adapter(tmp_path):
    vlm, inputs = tiny_qwen3_vl()
    before = {name: tensor.clone() for name, tensor in vlm.state_dict().items()}
    model = adapted(vlm, num_experts=1, top_k=1)
    export_of(model, inputs, tmp_path / "out", route="vllm")
    found = take_back(tmp_path / "out", out=tmp_path / "back")
    assert found["exact"] and found["max_abs_logit_diff"] == 0.0
    base = AutoModelForImageTextToText.from_pretrained(tmp_path / "back" / "base")
    assert type(base) is type(vlm) and all(torch.equal(t, before[n]) for n, t in base.state_dict().items())


@pytest.mark.parametrize(
    ("build", "settings", "reason"),
    [
        (tiny_llava, {"mix": "convex"}, "for 'qwen3_vl' alone"),
        (tiny_qwen3_vl, {}, "of 4 experts"),
        (tiny_qwen3_vl, {"mix": "token"}, "'token'"),
        (tiny_qwen3_vl, {"mix": "convex", "prompt_gate": "off"}, "gate is off"),
    ],
)
def test_what_vllm_cannot_hold_is_refused(build, settings, reason):
    model = adapted(build()[0], **settings)
    with pytest.raises(ExportError) as refused:
        plan(model, route="vllm")
    assert reason in refused.value.why and "export with route=" in refused.value.fix


def test_dense_qwen3_vl_goes_by_code_when_nobody_asks():
    model = adapted(tiny_qwen3_vl()[0], mix="convex")
    assert plan(model).route == "code" and read(model).gate == "on"
