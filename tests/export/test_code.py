"""Route "code": one modelling file, the live model with its prompt gate, bit for bit."""

import ast
import json
import sys

import pytest
import torch
import transformers
import transformers.dynamic_module_utils as modules
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

import lynx_moe.export.run as run
from lynx_moe.adapter import fit_prompt_gate, set_gate
from lynx_moe.errors import ExportError
from lynx_moe.export import code, export
from lynx_moe.export.read import read
from lynx_moe.ops.experts import expert_ffn
from lynx_moe.ops.mixes import MIXES
from tests.adapter.speaking import KINDS, adapted
from tests.export.exporting import (
    OPEN_ROW,
    SHUT_ROW,
    compare_in_this_process,
    export_of,
    logits,
    with_fitted_gate,
)
from tests.quantised import quantised
from tests.tiny import (
    llava_config,
    tiny_internvl,
    tiny_llava,
    tiny_llava_moe,
    tiny_llava_with_processor,
    tiny_qwen2_5_vl,
    tiny_smolvlm,
)
from tests.zoo import ZOO

FAMILIES = {
    "llava": (tiny_llava, "additive"),
    "qwen2_5_vl": (tiny_qwen2_5_vl, "convex"),
    "smolvlm": (tiny_smolvlm, "token"),
    "internvl": (tiny_internvl, "with attention"),
    "llava_moe": (tiny_llava_moe, "convex"),
    # The FFN lies in the layer itself, flattened or in two halves; the prompt is read by an encoder, or by generate().
    "blip-2, opt": (ZOO["blip-2, opt"], "with attention"),
    "blip, bert": (ZOO["blip, bert"], "additive"),
    "florence2": (ZOO["florence2"], "convex"),
    "gpt_oss": (ZOO["gpt_oss"], "token"),
    "deepseek_v3": (ZOO["deepseek_v3"], "with attention"),
}


def load(folder, **settings):
    return AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True, **settings).eval()


def test_fresh_process_without_this_library_gives_the_live_logits(tmp_path):
    vlm, processor = tiny_llava_with_processor()
    model = adapted(vlm, prompt_gate="auto")
    prompts = [processor.tokenizer(text).input_ids for text in ("find the red square", "describe the picture")]
    fit_prompt_gate(model, prompts, [True, False])
    report = export(model, processor, tmp_path / "out", route="code")
    assert report["max_abs_logit_diff"] == 0.0
    assert report["generation_equal"] and report["loaded_without_lynx_moe"]
    assert set(report["cases"]) == {"understanding", "grounding", "both", "random"}
    assert report["base_tensors"] == {"unchanged": len(tiny_llava()[0].state_dict()), "folded": 0}
    assert AutoProcessor.from_pretrained(tmp_path / "out").chat_template == processor.chat_template


@pytest.mark.parametrize("family", FAMILIES)
def test_gate_decides_per_row_and_shut_rows_are_the_base_bit_for_bit(family, tmp_path, quick_check):
    build, kind = FAMILIES[family]
    base = logits(*build())
    vlm, inputs = build()
    model = with_fitted_gate(vlm, inputs, **KINDS[kind])
    live = logits(model, inputs)
    assert export_of(model, inputs, tmp_path / "out", route="code")["max_abs_logit_diff"] == 0.0
    exported = load(tmp_path / "out")
    found = logits(exported, inputs)
    assert torch.equal(found, live)
    assert torch.equal(found[SHUT_ROW], base[SHUT_ROW])
    assert not torch.equal(found[OPEN_ROW], base[OPEN_ROW])
    asked = {name: value for name, value in inputs.items() if name != "decoder_input_ids"}
    how = {"max_new_tokens": 4, "do_sample": False, "num_beams": 2}
    written = exported.generate(**asked, **how)
    assert torch.equal(written, model.generate(**asked, **how))
    assert torch.equal(written[SHUT_ROW], build()[0].generate(**asked, **how)[SHUT_ROW])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert logits(exported, inputs).isfinite().all()


@pytest.fixture(scope="module")
def llava_export(tmp_path_factory):
    """(live model, inputs, exported model): one export for the tests that only look."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("llava")
        patch.setattr(modules, "HF_MODULES_CACHE", str(folder / "modules"))
        patch.setattr(run, "check_in_fresh_process", compare_in_this_process)
        vlm, inputs = tiny_llava()
        model = with_fitted_gate(vlm, inputs)
        export_of(model, inputs, folder / "out", route="code")
        yield model, inputs, load(folder / "out"), folder / "out"


@pytest.mark.parametrize(("mode", "gate"), [("on", True), ("off", False)])
def test_config_forces_the_gate(mode, gate, llava_export):
    model, inputs, exported, folder = llava_export
    forced = load(folder, prompt_gate=mode)
    assert torch.equal(logits(forced, inputs), logits(model, inputs, gate=gate))


def test_unknown_gate_mode_is_refused(llava_export):
    _, inputs, _, folder = llava_export
    with pytest.raises(ValueError, match="sometimes"):
        logits(load(folder, prompt_gate="sometimes"), inputs)


@pytest.mark.parametrize("how", [{"num_beams": 3}, {"use_cache": False}, {"do_sample": False}], ids=str)
def test_decision_is_kept_while_decoding(how, llava_export):
    model, inputs, exported, _ = llava_export
    settings = {"max_new_tokens": 6, "do_sample": False, **how}
    live = model.generate(**inputs, **settings)
    assert torch.equal(exported.generate(**inputs, **settings), live)
    with set_gate(model, False):
        assert torch.equal(live[SHUT_ROW], model.generate(**inputs, **settings)[SHUT_ROW])
        assert not torch.equal(live[OPEN_ROW], model.generate(**inputs, **settings)[OPEN_ROW])


def test_interleaved_generations_do_not_disturb_each_other(llava_export):
    _, inputs, exported, _ = llava_export
    alone = {row: {k: v[row : row + 1] for k, v in inputs.items()} for row in (OPEN_ROW, SHUT_ROW)}
    caches, whole = {}, {}
    with torch.no_grad():
        for row, prompt in alone.items():
            caches[row] = exported(**prompt, use_cache=True).past_key_values
        for row in alone:
            token = torch.tensor([[20]])
            mask = torch.cat([alone[row]["attention_mask"], torch.ones(1, 1, dtype=torch.long)], dim=1)
            step = exported(input_ids=token, attention_mask=mask, past_key_values=caches[row]).logits[:, -1]
            exported.config.prompt_gate = "on" if row == OPEN_ROW else "off"
            longer = {**alone[row], "input_ids": torch.cat([alone[row]["input_ids"], token], dim=1)}
            whole[row] = exported(**{**longer, "attention_mask": mask}).logits[:, -1]
            exported.config.prompt_gate = "auto"
            torch.testing.assert_close(step, whole[row], atol=1e-5, rtol=1e-5)


def test_exported_model_survives_being_saved_again(llava_export, tmp_path):
    _, inputs, exported, _ = llava_export
    exported.save_pretrained(tmp_path)
    assert torch.equal(logits(load(tmp_path), inputs), logits(exported, inputs))


def test_folder_is_not_taken_for_the_stock_model(llava_export):
    # As a stock LLaVA it would load without trust, warn, and answer as the base: its own model type prevents that.
    with pytest.raises(ValueError, match="lynx_llava"):
        AutoConfig.for_model(json.loads((llava_export[3] / "config.json").read_text())["model_type"])


@pytest.mark.parametrize("mix", MIXES.names())
def test_modelling_file_imports_only_torch_and_transformers(mix):
    text = code.source(read(adapted(tiny_llava()[0], mix=mix)))
    roots = {
        name.split(".")[0]
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names])
    }
    assert roots == {"operator", "torch", "transformers"}
    assert "$" not in text


class Mine(transformers.LlavaForConditionalGeneration):
    """A model class that no other machine has."""


@pytest.mark.parametrize(
    ("build", "reason"),
    [(lambda: Mine(llava_config()), "Mine is not a class"), (lambda: quantised(tiny_llava()[0], "int8"), "are packed")],
    ids=["a class of one's own", "quantised"],
)
def test_what_no_file_can_hold_is_refused_with_the_reason_and_the_next_best_way(build, reason, tmp_path):
    live = read(adapted(build()))
    assert reason in code.refusal(live)
    with pytest.raises(ExportError, match="route='adapter'"):
        code.build(live, tmp_path)
    assert not any(tmp_path.iterdir())


def test_promise_and_file_have_only_what_this_model_needs():
    vlm, inputs = tiny_llava()
    simple = code.source(read(adapted(tiny_llava()[0])))
    whole = code.source(read(with_fitted_gate(vlm, inputs, mix="convex", attention_rank=2)))
    promised = code.promise(read(adapted(tiny_llava()[0])))
    assert (promised.exactness, promised.bound) == ("bitwise", 0.0)
    for part in ("class LynxHead", "class LynxDelta", "class LynxGate", "def read_prompts"):
        assert part in whole and part not in simple
    assert max(len(line) for line in (simple + whole).splitlines()) <= 120


def test_unfitted_gate_ships_on_and_says_so(tmp_path, capsys):
    vlm, inputs = tiny_llava()
    model = adapted(vlm, prompt_gate="auto")
    with pytest.warns(UserWarning, match="not been fitted"):
        report = export_of(model, inputs, tmp_path / "out", route="code")
    assert report["prompt_gate"] == "on"
    assert "never fitted" in capsys.readouterr().out
    with pytest.raises(ValueError, match="without"):
        logits(load(tmp_path / "out", prompt_gate="auto"), inputs)


def test_bfloat16_base_with_float32_experts_is_held_bit_for_bit(tmp_path, quick_check):
    vlm, inputs = tiny_llava()
    vlm.save_pretrained(tmp_path / "base")
    vlm = AutoModelForImageTextToText.from_pretrained(tmp_path / "base", dtype=torch.bfloat16)
    inputs["pixel_values"] = inputs["pixel_values"].bfloat16()
    model = with_fitted_gate(vlm, inputs)
    assert export_of(model, inputs, tmp_path / "out", route="code")["max_abs_logit_diff"] == 0.0
    exported = load(tmp_path / "out", dtype="auto")
    router = exported.get_submodule("model.language_model.layers.0.mlp.lynx_router")
    assert exported.dtype == torch.bfloat16 and router.weight.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("tokens", [1, 40, 500])
@pytest.mark.parametrize("top_k", [2, 4])
def test_exported_experts_give_the_live_bits_on_every_path(dtype, tokens, top_k, llava_export):
    module = sys.modules[type(llava_export[2]).__module__]
    g = torch.Generator().manual_seed(0)
    x = torch.randn(tokens, 32, generator=g).to(dtype)
    weights, chosen = torch.randn(tokens, 4, generator=g).topk(top_k)
    if top_k == 2:
        chosen[:] = torch.tensor([0, 2])  # two experts are idle
    exported = module.LynxExperts({"num_experts": 4, "width": 32}, 24, torch.nn.functional.silu).to(dtype)
    for weight in exported.parameters():
        torch.nn.init.normal_(weight, std=0.2, generator=g)
    live = expert_ffn(x, weights.to(x.dtype), chosen, exported.gate_up_proj, exported.down_proj)
    found = exported(x, chosen, weights.to(x.dtype))
    assert torch.equal(found, live)
    grads = [torch.autograd.grad(y.float().square().sum(), list(exported.parameters())) for y in (found, live)]
    for a, b in zip(*grads, strict=True):
        assert (a - b).norm() <= (1e-4 if dtype != torch.bfloat16 else 2e-2) * b.norm()
