"""The plan, the folder, the proof: what holds for every route."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import lynx_moe.export.run as run
from lynx_moe.adapter import LynxConfig
from lynx_moe.errors import ConfigError, ExportError, OutputExistsError
from lynx_moe.export import fresh, plan, verify
from lynx_moe.training.hashing import hash_base
from tests.adapter.speaking import adapted
from tests.export.exporting import compare_in_this_process, export_of, with_fitted_gate
from tests.tiny import tiny_llava, tiny_qwen2_5_vl


@pytest.fixture
def model_and_inputs():
    vlm, inputs = tiny_llava()
    return adapted(vlm), inputs


def test_auto_takes_a_host_that_loses_nothing():
    assert plan(adapted(tiny_llava()[0], prompt_gate="on")).route == "native"
    vlm, inputs = tiny_llava()
    chosen = plan(with_fitted_gate(vlm, inputs))
    assert chosen.route == "code" and "per-prompt gate" in chosen.better["native"]
    chosen = plan(adapted(tiny_qwen2_5_vl()[0]))
    assert chosen.route == "code" and "accepts no other text architecture" in chosen.better["native"]


def test_native_plan_says_that_the_gate_is_dropped():
    vlm, inputs = tiny_llava()
    model = with_fitted_gate(vlm, inputs)
    with pytest.raises(ExportError, match="'native' cannot take") as refused:
        plan(model, route="native")
    assert "per-prompt gate" in refused.value.why and "'code'" in refused.value.fix and "--gate on" in refused.value.fix
    chosen = plan(model, route="native", gate="on")
    assert "dropped" in chosen.promise.keeps and "measure retention" in str(chosen)


def test_unknown_route_names_the_nearest(model_and_inputs):
    with pytest.raises(ConfigError, match="native"):
        plan(model_and_inputs[0], route="nativ")


def test_model_without_an_adapter_is_refused():
    with pytest.raises(ExportError, match="0 LynX blocks"):
        plan(tiny_llava()[0])


def test_plan_is_printed_before_anything_is_computed(model_and_inputs, tmp_path, capsys, monkeypatch):
    def stop(*args):
        raise RuntimeError("computing")

    monkeypatch.setattr(run, "_save", stop)
    with pytest.raises(RuntimeError, match="computing"):
        export_of(*model_and_inputs, tmp_path / "out", route="native")
    assert "route 'native', host glm4_moe" in capsys.readouterr().out
    assert not any(tmp_path.iterdir())


def test_folder_that_is_there_is_kept_unless_overwritten(model_and_inputs, tmp_path, quick_check):
    out = tmp_path / "out"
    export_of(*model_and_inputs, out, route="native")
    (out / "mine.txt").write_text("keep")
    with pytest.raises(OutputExistsError, match="exists"):
        export_of(*model_and_inputs, out, route="native")
    assert (out / "mine.txt").read_text() == "keep"
    export_of(*model_and_inputs, out, route="code", overwrite=True)
    assert not (out / "mine.txt").exists() and (out / "modelling_lynx.py").exists()
    assert [path.name for path in tmp_path.iterdir() if path.name != "modules"] == ["out"]


def test_folder_that_no_export_wrote_is_never_replaced(model_and_inputs, tmp_path):
    (tmp_path / "thesis.tex").write_text("words")
    with pytest.raises(OutputExistsError, match="no export wrote"):
        export_of(*model_and_inputs, tmp_path, route="native", overwrite=True)
    assert (tmp_path / "thesis.tex").read_text() == "words"


def test_adapter_plan_warns_when_experts_started_as_the_bases():
    assert "licence" in str(plan(adapted(tiny_llava()[0], expert_init="slice"), route="adapter"))


def test_folder_that_does_not_load_says_what_the_fresh_process_said(tmp_path, monkeypatch):
    module = sys.modules["lynx_moe.export.verify"]
    (tmp_path / "lynx_export.json").write_text("{}")
    monkeypatch.setattr(module, "_program", lambda: "raise SystemExit('no such thing')")
    with pytest.raises(ExportError, match="no such thing"):
        module.check_in_fresh_process(tmp_path, "cpu")
    monkeypatch.setattr(module, "_program", lambda: "import time; time.sleep(30)")
    with pytest.raises(ExportError, match="within"):
        module.check_in_fresh_process(tmp_path, "cpu", timeout_seconds=0.2)


def test_export_that_answers_otherwise_is_not_kept(model_and_inputs, tmp_path, monkeypatch):
    def off_by_a_bit(folder, device):
        result = compare_in_this_process(folder, device)
        return result | {"max_abs_logit_diff": 0.5}

    monkeypatch.setattr(run, "check_in_fresh_process", off_by_a_bit)
    with pytest.raises(ExportError, match="logits differ by 0.5"):
        export_of(*model_and_inputs, tmp_path / "out", route="native")
    assert not any(tmp_path.iterdir())


def test_export_that_changed_a_tensor_is_not_kept(model_and_inputs, tmp_path, monkeypatch):
    honest = run._save

    def with_a_changed_weight(built, model, *args):
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight * 1.0001)
        honest(built, model, *args)

    monkeypatch.setattr(run, "_save", with_a_changed_weight)
    with pytest.raises(ExportError, match="changed tensors: lm_head.weight"):
        export_of(*model_and_inputs, tmp_path / "out", route="native")


def test_live_model_is_left_as_it_was(model_and_inputs, tmp_path, quick_check):
    model, inputs = model_and_inputs
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    export_of(model, inputs, tmp_path / "out", route="code")
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_verify_finds_one_changed_byte_in_any_file(model_and_inputs, tmp_path, quick_check):
    export_of(*model_and_inputs, tmp_path / "out", route="native")
    files = sorted((tmp_path / "out").iterdir())
    assert {"model.safetensors", "config.json", "README.md", "lynx_export.json"} <= {path.name for path in files}
    for path in files:
        before = path.read_bytes()
        content = bytearray(before)
        # A letter for a letter, so that JSON stays JSON.
        content[content.rindex(b"e")] = ord("a")
        path.write_bytes(content)
        found = verify(tmp_path / "out")
        assert not found["ok"] and found["changed_files"] == [path.name]
        path.write_bytes(before)


def test_verify_agrees_with_an_export_that_nobody_touched(model_and_inputs, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["lynx_moe.export.verify"], "check_in_fresh_process", compare_in_this_process)
    export_of(*model_and_inputs, tmp_path / "out", route="native")
    assert verify(tmp_path / "out")["ok"]


def test_verify_refuses_a_folder_that_is_no_export(tmp_path):
    with pytest.raises(ExportError, match="lynx_export.json"):
        verify(tmp_path)


def test_adapter_route_ships_no_base_tensor_and_answers_as_the_live_adapter(tmp_path):
    vlm, inputs = tiny_llava()
    base = {fresh.tensor_sha256(tensor) for tensor in vlm.state_dict().values()}
    before = hash_base(vlm)
    model = with_fitted_gate(vlm, inputs)
    report = export_of(model, inputs, tmp_path / "out", route="adapter")
    assert report["max_abs_logit_diff"] == 0.0 and not report["loaded_without_lynx_moe"]
    shipped = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert not base & {fresh.tensor_sha256(tensor) for tensor in shipped.values()}
    assert json.loads((tmp_path / "out" / "base_sha256.json").read_text()) == before.tensors
    assert report["base_sha256"] == before.digest
    assert verify(tmp_path / "out")["ok"]
    assert list(model.peft_config) == ["default"]


def test_blocked_packages_cannot_be_imported_nor_found():
    program = Path(fresh.__file__).read_text().split("if __name__")[0] + (
        "block()\n"
        "import importlib.util\n"
        "assert all(importlib.util.find_spec(name) is None for name in BLOCKED)\n"
        "import json.tool, wave\n"
    )
    root = str(Path(run.__file__).parents[2])
    subprocess.run([sys.executable, "-c", program], cwd=root, check=True)


def test_settings_in_the_card_are_the_adapters_own(model_and_inputs, tmp_path, quick_check):
    export_of(*model_and_inputs, tmp_path / "out", route="native")
    text = (tmp_path / "out" / "README.md").read_text()
    settings = json.loads(text.split("```json\n")[1].split("```")[0])
    assert settings.keys() == LynxConfig.__annotations__.keys()
