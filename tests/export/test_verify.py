"""The proof, later and elsewhere: against the base, fold by fold, and what a certificate says of it."""

import json
import re
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from lynx_moe.adapter import fit_prompt_gate
from lynx_moe.data import load_records
from lynx_moe.errors import ExportError
from lynx_moe.evaluation import compare, evaluate
from lynx_moe.export import certificate, export, fresh, verify
from lynx_moe.export.built import Fold
from lynx_moe.export.verify import manifest_bytes
from lynx_moe.families.dialects import get_dialect
from tests.adapter.speaking import adapted
from tests.data.written import small_folder
from tests.export.exporting import compare_in_this_process, export_of, with_fitted_gate
from tests.tiny import tiny_llava, tiny_llava_with_processor


@pytest.fixture
def in_process(monkeypatch, quick_check):
    monkeypatch.setattr(sys.modules["lynx_moe.export.verify"], "check_in_fresh_process", compare_in_this_process)


FOLDS = {
    "times two": (Fold(factor=2.0), lambda w: w * 2, "exact"),
    "times a half, into wider rows": (
        Fold(factor=0.5, spans=((0, 6), (9, 15))),
        lambda w: torch.cat([w[:6] / 2, torch.ones(3, 8).to(w), w[6:] / 2, torch.ones(3, 8).to(w)]),
        "exact",
    ),
    "into wider columns": (
        Fold(axis=1, spans=((0, 8),)),
        lambda w: torch.cat([w, torch.randn(12, 5).to(w)], dim=1),
        "exact",
    ),
    "times a third": (Fold(factor=1 / 3), lambda w: (w.float() * (1 / 3)).to(w.dtype), "rounded"),
    "plus a delta": (
        Fold(rank=2),
        lambda w: (w.float() + torch.randn(12, 2) @ torch.randn(2, 8)).to(w.dtype),
        "rounded",
    ),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", FOLDS)
def test_fold_is_undone_and_a_changed_weight_is_seen_behind_it(name, dtype):
    fold, do, expected = FOLDS[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        base = torch.randn(12, 8).to(dtype)
        stored = do(base)
    how, worst = fresh.undone(stored, fold.undo, base)
    assert how in ("exact", expected) and worst <= 1.0
    other = base.clone()
    # Beside a whole matrix that was added and rounded, a small change of one number cannot be seen.
    other[7, 3] += 4.0 if fold.rank else 0.05 * other[7, 3]
    assert fresh.undone(stored, fold.undo, other)[0] == "changed"
    assert fresh.undone(stored.double(), fold.undo, base)[0] == "changed"


def test_fold_says_itself_in_words():
    fold = Fold(factor=2.0, axis=1, spans=((0, 64),))
    assert str(fold) == "columns 0:64, times 2.0" and str(Fold(rank=3)) == "plus a delta of rank 3"


ROUTES = {
    "code": ({}, {"identical"}),
    "native": ({"mix": "convex", "attention_rank": 3}, {"identical", "rounded"}),
    "adapter": ({"attention_rank": 3}, {"identical"}),
}


@pytest.mark.parametrize("route", ROUTES)
def test_every_base_tensor_is_found_again(route, tmp_path, in_process):
    settings, kinds = ROUTES[route]
    vlm, inputs = tiny_llava()
    vlm.save_pretrained(tmp_path / "base")
    names = set(vlm.state_dict())
    export_of(with_fitted_gate(vlm, inputs, **settings), inputs, tmp_path / "out", route=route)
    found = verify(tmp_path / "out", tmp_path / "base")
    assert found["ok"], found["complaints"]
    base = found["base"]
    assert {kind for kind in ("identical", "undone", "rounded") if base.get(kind)} == kinds
    assert sum(len(base.get(kind, ())) for kind in ("identical", "undone", "rounded")) == len(names)
    rows = {(row["setting"], row["prompts"]): row for row in found["certificate"]["outputs"]}
    assert rows["live model, adapter off", "all, recorded at export"]["bitwise_equal"] == 3
    on = rows["export, gate on", "all"]
    assert on["n"] == 4 and on["bitwise_equal"] == 0 and on["max_abs_logit_diff"] > 0.1
    if route == "native":
        assert set(found["gates"]) == {"on"} and found["certificate"]["verdict"]["bitwise"] is None
    else:
        assert rows["export, gate off", "all"]["bitwise_equal"] == 4
        assert rows["export, gate auto", "gate shut: understanding"]["bitwise_equal"] == 2
        assert rows["export, gate auto", "gate open: grounding"]["bitwise_equal"] == 0
        assert found["certificate"]["verdict"]["bitwise"] is True


@pytest.mark.parametrize("route", ["native", "adapter"])
def test_another_base_is_refused_with_what_differs_first(route, tmp_path, in_process):
    vlm, inputs = tiny_llava()
    vlm.save_pretrained(tmp_path / "base")
    export_of(adapted(vlm), inputs, tmp_path / "out", route=route)
    weights = load_file(tmp_path / "base" / "model.safetensors")
    name = next(name for name in weights if name.endswith("layers.2.mlp.up_proj.weight"))
    weights[name][3, 5] += 1e-3
    save_file(weights, tmp_path / "base" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ExportError, match=r"layers\.2\.mlp\.up_proj\.weight \(float32 \(64, 32\)\) has sha256"):
        verify(tmp_path / "out", tmp_path / "base")
    tiny_llava(hidden_size=16)[0].save_pretrained(tmp_path / "smaller")
    with pytest.raises(ExportError, match="first difference: .*16"):
        verify(tmp_path / "out", tmp_path / "smaller")


def test_export_whose_base_part_changed_is_found_even_when_its_hashes_were_made_anew(tmp_path, in_process):
    vlm, inputs = tiny_llava()
    vlm.save_pretrained(tmp_path / "base")
    export_of(adapted(vlm, mix="convex"), inputs, tmp_path / "out", route="native")
    manifest = json.loads((tmp_path / "out" / "lynx_export.json").read_text())
    name = next(n for n, entry in manifest["tensors"].items() if "undo" in entry)
    weights = load_file(tmp_path / "out" / "model.safetensors")
    stored = next(key for key in weights if key.endswith(name.partition("layers")[2]))  # files have the hub's names
    weights[stored][0, 0] *= 1.001
    save_file(weights, tmp_path / "out" / "model.safetensors", metadata={"format": "pt"})
    manifest["tensors"][name]["sha256"] = fresh.tensor_sha256(weights[stored])
    manifest |= sys.modules["lynx_moe.export.verify"].file_hashes(tmp_path / "out")
    (tmp_path / "out" / "lynx_export.json").write_bytes(manifest_bytes(manifest))
    assert verify(tmp_path / "out")["ok"]
    found = verify(tmp_path / "out", tmp_path / "base")
    assert found["base"]["changed"] == [name] and not found["ok"]
    # A fold that is a sentence only cannot be undone, and that is said.
    del manifest["tensors"][name]["undo"]
    (tmp_path / "out" / "lynx_export.json").write_bytes(manifest_bytes(manifest))
    assert "does not say how to undo" in verify(tmp_path / "out", tmp_path / "base")["complaints"][0]


@pytest.fixture(scope="module")
def certified(tmp_path_factory):
    """(folder, its base, live model, records) of one export with a certificate."""
    place = tmp_path_factory.mktemp("certified")
    vlm, processor = tiny_llava_with_processor()
    for part in (vlm, processor):
        part.save_pretrained(place / "base")
    model = adapted(vlm, prompt_gate="auto")
    records = load_records(small_folder(place / "data"), "train")
    of = {kind: [r.question for r in records if r.kind == kind] for kind in ("grounding", "understanding")}
    prompts = [processor.tokenizer(text).input_ids for text in (*of["grounding"], *of["understanding"])]
    fit_prompt_gate(model, prompts, [True] * len(of["grounding"]) + [False] * len(of["understanding"]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(place / "modules"))
        patch.setattr(sys.modules["lynx_moe.export.run"], "check_in_fresh_process", compare_in_this_process)
        export(model, processor, place / "out", route="code", records=records, new_tokens=2, base=place / "base")
    return place / "out", place / "base", model, processor, records


def test_certificate_holds_what_an_evaluation_by_hand_finds(certified):
    folder, _, model, processor, records = certified
    sealed = json.loads((folder / "certificate.json").read_text())
    dialect = get_dialect("percent", processor)
    with model.disable_adapter():
        before = evaluate(model, processor, records, dialect, batch_size=10, progress=False)
    after = evaluate(model, processor, records, dialect, batch_size=10, progress=False)
    by_hand = compare(before, after)
    assert {key: sealed["retention"][key] for key in by_hand} == json.loads(json.dumps(by_hand))
    assert sealed["retention"]["n"] == 3 and sealed["retention"]["before_is"] == "base"
    assert sealed["verified"] and sealed["verdict"]["bitwise"] is True
    assert sealed["base"]["class"] == "LlavaForConditionalGeneration"
    assert set(sealed["live"]["cases"]) == {"understanding", "grounding", "both", "random", "held-out"}
    assert any("rendered scenes" in gap["what"] for gap in sealed["not_checked"])


def test_page_says_the_same_and_loads_nothing(certified):
    folder = certified[0]
    text, sealed = ((folder / name).read_text() for name in ("certificate.html", "certificate.json"))
    sealed = json.loads(sealed)
    assert sealed["sha256"] in text and sealed["base"]["sha256"] in text
    assert all(gap["why"] in text for gap in sealed["not_checked"])
    assert not re.search(r"https?:|src=|<script|@import|<link", text)


def test_changed_certificate_fails_even_where_the_manifest_was_made_to_fit(certified, in_process, tmp_path):
    import shutil

    shutil.copytree(certified[0], tmp_path / "out")
    assert verify(tmp_path / "out", certified[1], certified[4])["ok"]
    path = tmp_path / "out" / "certificate.json"
    sealed = json.loads(path.read_text())
    path.write_text(path.read_text().replace(f'"lost": {sealed["retention"]["lost"]}', '"lost": 77'))
    assert verify(tmp_path / "out")["changed_files"] == ["certificate.json"]
    manifest = json.loads((tmp_path / "out" / "lynx_export.json").read_text())
    manifest |= sys.modules["lynx_moe.export.verify"].file_hashes(tmp_path / "out")
    (tmp_path / "out" / "lynx_export.json").write_bytes(manifest_bytes(manifest))
    found = verify(tmp_path / "out")
    assert not found["ok"] and "does not fit its own sha256" in found["complaints"][0]


def test_seal_depends_on_content_and_not_on_order():
    one, other = certificate.seal({"a": 1, "b": [1.5, "é"]}), certificate.seal({"b": [1.5, "é"], "a": 1})
    assert one == other == certificate.seal(one)
    assert certificate.seal({"a": 2, "b": [1.5, "é"]})["sha256"] != one["sha256"]
    assert certificate.seal({"a": float("inf")})["a"] == "inf"


def test_forgetting_is_said_as_such():
    content = {"complaints": [], "outputs": [], "weights": {"identical": 3}}
    lost = {"lost": 12, "won": 1, "n": 100, "mcnemar_p": 0.003}
    assert certificate._verdict(content | {"retention": lost})["words"].startswith(
        "Something was forgotten: as shipped, 12"
    )
    even = {"lost": 3, "won": 2, "n": 100, "mcnemar_p": 1.0}
    assert "no proof" in certificate._verdict(content | {"retention": even})["words"]
    assert "not measured" in certificate._verdict(content | {"retention": None})["words"]


def test_rows_that_should_be_the_bases_and_are_not_are_complained_of():
    gates = {"off": {"a": {"rows_equal": [True, False]}}, "auto": {"a": {"rows_equal": [False, True]}}}
    assert certificate.broken_promises(gates, {"shut": {"a": [False, True]}}) == [
        "with the gate off, row 1 of 'a' is not the base's bit for bit"
    ]
    assert len(certificate.broken_promises(gates, {"shut": {"a": [True, True]}})) == 2


def test_file_that_was_added_or_a_manifest_that_was_edited_fails(tmp_path, in_process):
    vlm, inputs = tiny_llava()
    out = tmp_path / "out"
    export_of(adapted(vlm), inputs, out, route="native")
    (out / "notes.md").write_text("mine")
    assert verify(out)["ok"]
    (out / "modelling_evil.py").write_text("")
    assert verify(out)["changes"] == {"modelling_evil.py": ["it was added after the export"]}
    (out / "modelling_evil.py").unlink()
    text = (out / "lynx_export.json").read_text()
    (out / "lynx_export.json").write_text(text.replace('"unchanged": ', '"unchanged": 1'))
    found = verify(out)
    assert not found["ok"] and found["changed_files"] == ["lynx_export.json"]
    (out / "lynx_export.json").write_text("[]")
    with pytest.raises(ExportError, match="no readable"):
        verify(out)
