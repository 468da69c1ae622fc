"""An exported native checkpoint taken apart again: the base it was made from, and the adapter."""

import json

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForImageTextToText

from lynx_moe.cli import main
from lynx_moe.errors import ExportError, OutputExistsError
from lynx_moe.export import native, take_back
from tests.adapter.speaking import adapted
from tests.export.exporting import export_of, logits
from tests.export.shells import shell, tiny_qwen3_5
from tests.tiny import tiny_llava

ONE = {"num_experts": 1, "top_k": 1}
# What is exported, by which host, and whether every tensor of the base has its bytes again.
EXACT = {
    "qwen2_moe, factor two": (tiny_llava, ONE, "qwen2_moe"),
    "glm4_moe": (tiny_llava, {"expert_width": 24}, "glm4_moe"),
    "granitemoeshared, stacked": (lambda: shell("llava_next_video", "granite"), ONE, "granitemoeshared"),
    "cohere2_moe": (lambda: shell("cohere2_vision", "cohere2"), {"expert_width": 24}, "cohere2_moe"),
    "qwen3_5_moe, factor two": (tiny_qwen3_5, ONE, "qwen3_5_moe"),
}
ROUNDED = {
    "qwen2_moe, alpha": (tiny_llava, {"mix": "convex", "layers": [1]}, "qwen2_moe"),
    "cohere2_moe, alpha": (lambda: shell("cohere2_vision", "cohere2"), {"mix": "convex"}, "cohere2_moe"),
}


def exported(build, settings, folder):
    vlm, inputs = build()
    model = adapted(vlm, **settings)
    report = export_of(model, inputs, folder, route="native")
    return model, inputs, report


def loaded(folder, base=None):
    base = AutoModelForImageTextToText.from_pretrained(base or folder / "base")
    return PeftModel.from_pretrained(base, str(folder / "adapter")).eval()


def first_and_slow(cases):
    return [pytest.param(case, marks=pytest.mark.slow if i else ()) for i, case in enumerate(cases)]


@pytest.mark.parametrize("case", first_and_slow(EXACT))
def test_base_comes_back_byte_for_byte_and_the_adapter_answers_as_it_did(case, tmp_path, quick_check):
    build, settings, host = EXACT[case]
    before = {name: tensor.clone() for name, tensor in build()[0].state_dict().items()}
    model, inputs, report = exported(build, settings, tmp_path / "out")
    assert report["host"] == host
    found = take_back(tmp_path / "out", out=tmp_path / "back")
    assert found["exact"] and found["base"] == "written" and found["generation_equal"]
    assert found["base_tensors"] == {"exact": len(before), "rounded": []}
    again = loaded(tmp_path / "back")
    assert torch.equal(logits(again, inputs), logits(model, inputs))
    assert torch.equal(logits(again, inputs, gate=False), logits(model, inputs, gate=False))
    base = AutoModelForImageTextToText.from_pretrained(tmp_path / "back" / "base").state_dict()
    assert base.keys() == before.keys() and all(torch.equal(tensor, before[name]) for name, tensor in base.items())


@pytest.mark.parametrize("case", first_and_slow(ROUNDED))
def test_other_factors_come_back_up_to_rounding_and_are_named(case, tmp_path, quick_check):
    build, settings, host = ROUNDED[case]
    before = {name: tensor.clone() for name, tensor in build()[0].state_dict().items()}
    model, inputs, report = exported(build, settings, tmp_path / "out")
    assert report["host"] == host
    found = take_back(tmp_path / "out", out=tmp_path / "back")
    rounded = found["base_tensors"]["rounded"]
    assert not found["exact"] and rounded and all(name.endswith("down_proj.weight") for name in rounded)
    base = AutoModelForImageTextToText.from_pretrained(tmp_path / "back" / "base").state_dict()
    for name, tensor in base.items():
        torch.testing.assert_close(tensor, before[name], atol=0, rtol=1e-6 if name in rounded else 0)
    again = loaded(tmp_path / "back")
    torch.testing.assert_close(logits(again, inputs), logits(model, inputs), atol=1e-5, rtol=1e-5)


@pytest.fixture
def with_deltas(tmp_path, quick_check):
    """A base in a folder, and an export of it with low-rank deltas in its attention."""
    vlm, inputs = tiny_llava()
    vlm.save_pretrained(tmp_path / "base")
    model = adapted(vlm, attention_rank=3, mix="convex")
    export_of(model, inputs, tmp_path / "out", route="native")
    return model, inputs


def test_deltas_need_the_base_and_come_back_at_their_rank(with_deltas, tmp_path):
    model, inputs = with_deltas
    with pytest.raises(ExportError, match="plus a delta") as refused:
        take_back(tmp_path / "out", out=tmp_path / "back")
    assert "--base" in refused.value.fix and not (tmp_path / "back").exists()
    found = take_back(tmp_path / "out", out=tmp_path / "back", base=tmp_path / "base")
    assert found["exact"] and found["delta_residual"] < 1e-5
    assert [path.name for path in (tmp_path / "back").iterdir()] == ["adapter"], "the given base is not written again"
    again = loaded(tmp_path / "back", tmp_path / "base")
    torch.testing.assert_close(logits(again, inputs), logits(model, inputs), atol=1e-5, rtol=1e-5)
    assert torch.equal(logits(again, inputs, gate=False), logits(model, inputs, gate=False))


@pytest.mark.slow
def test_another_base_is_refused_by_name(with_deltas, tmp_path):
    other = tiny_llava()[0]
    with torch.no_grad():
        other.model.language_model.norm.weight.add_(1e-3)
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(ExportError, match=r"language_model\.norm\.weight"):
        take_back(tmp_path / "out", out=tmp_path / "back", base=tmp_path / "other")
    assert not (tmp_path / "back").exists()


def test_bad_input_is_refused_with_a_reason(tmp_path, quick_check):
    vlm, inputs = tiny_llava()
    model = adapted(vlm)
    export_of(model, inputs, tmp_path / "code", route="code")
    with pytest.raises(ExportError, match="route 'code'"):
        take_back(tmp_path / "code", out=tmp_path / "back")
    export_of(model, inputs, tmp_path / "out", route="native")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    with pytest.raises(OutputExistsError):
        take_back(tmp_path / "out", out=tmp_path / "full")
    config = tmp_path / "out" / "config.json"
    config.write_text(config.read_text().replace("silu", "gelu"))
    with pytest.raises(ExportError, match="changed since it was written: config.json"):
        take_back(tmp_path / "out", out=tmp_path / "back")
    assert not (tmp_path / "back").exists()


@pytest.mark.slow
def test_command_says_what_came_back(tmp_path, quick_check, capsys):
    exported(tiny_llava, ONE, tmp_path / "out")
    out, said = tmp_path / "back", tmp_path / "said.json"
    assert main(["unexport", str(tmp_path / "out"), "--out", str(out), "--json", str(said)]) == 0
    assert "its bytes" in capsys.readouterr().out
    assert json.loads(said.read_text())["exact"] and (out / "adapter" / "adapter_config.json").is_file()
    assert json.loads((out / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"] == str(
        out / "base"
    )


def test_every_host_is_taken_back_by_some_case():
    assert {host for _, _, host in EXACT.values()} == set(native.HOSTS)
