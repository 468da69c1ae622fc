"""Heads that answers need, in exports: the self-contained file draws what the live model draws, other routes say no."""

import json

import numpy as np
import pytest
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForImageTextToText

from lynx_moe.adapter import set_gate
from lynx_moe.errors import ExportError
from lynx_moe.export import code_heads, export, fresh, plan, verify
from lynx_moe.export.asked import live_ask
from lynx_moe.export.read import read
from lynx_moe.loading import load
from lynx_moe.objectives import OBJECTIVES, Objective
from lynx_moe.objectives.attached import FILE
from tests.export.heads import (
    BUILDERS,
    MASKS,
    PROMPTS,
    TRAINING_ONLY,
    WORD,
    fitted,
    llava,
    picture,
    spot,
    with_heads,
)
from tests.families.test_picture_grid import paligemma
from tests.tiny import tiny_llava_with_processor

QUESTION = "Find the red square."


def open_export(folder, **settings):
    return AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True, **settings).eval()


def dictated(ask, processor, text=f"{WORD} a {WORD}", question=QUESTION, regions=(), image=None):
    """(text, masks, logits) of an answer that is put into a model's mouth, where there is one; masks are all 2 where
    none was made."""
    ids = [*processor.tokenizer(text).input_ids, processor.tokenizer.eos_token_id] if text else []
    asked = {
        "image": image or picture(),
        "question": question,
        "regions": regions,
        "ids": ids,
        "new_tokens": len(ids) or 6,
    }
    return fresh.asked_again(ask, asked)


def same(found, live):
    """Whether two answers are the same, bit for bit."""
    return found[0] == live[0] and torch.equal(found[1], live[1]) and torch.equal(found[2], live[2])


def asks(model, processor, folder):
    """The live model's `ask` and that of its export in `folder`."""
    exported = open_export(folder)
    live = live_ask(model, processor, code_heads.dialect_of(read(model, processor)))
    return live, lambda *args, **how: exported.ask(processor, *args, **how), exported


@pytest.fixture
def own_processor(monkeypatch):
    """Processors that tests make of a family's are known by no name, and come back as they were."""

    def keep(processor):
        monkeypatch.setattr(transformers.AutoProcessor, "from_pretrained", lambda *args, **how: processor)

    return keep


def test_fresh_process_without_this_library_draws_masks_and_is_shown_regions_as_the_live_model(tmp_path):
    model, processor = llava(MASKS | PROMPTS | TRAINING_ONLY)
    report = export(model, processor, tmp_path / "out")
    assert (report["route"], report["heads"]) == ("code", ["masks", "prompts"])
    assert report["loaded_without_lynx_moe"] and report["max_abs_logit_diff"] == 0.0
    assert report["cases"]["asked: masks"]["mask_pixels_differ"] == 0
    asked = fresh.read_asked(tmp_path / "out")
    drawn, shown = asked["asked: masks"], asked["asked: regions"]
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "masks = model.ask(processor, image, question)" in card and "| heads | masks, prompts |" in card
    assert drawn["text"] == f"{WORD} {WORD}" and drawn["masks"].unique().tolist() == [0, 1]
    assert [np.ndim(region) for region in shown["regions"]] == [2, 1, 1] and not len(shown["masks"])


FORMS = {"box": (12, 14, 47, 33), "thin box": (70, 3, 71, 9), "point": (70, 60), "mask": spot()}
EACH = "What is there at {region:2}, {region:0} and at {region:1} and {region:2}?"


@pytest.mark.parametrize("family", BUILDERS)
def test_masks_and_regions_are_the_live_models_bit_for_bit(family, tmp_path, quick_check, own_processor):
    model, processor = BUILDERS[family](MASKS | PROMPTS)
    own_processor(processor)
    export(model, processor, tmp_path / "out", route="code", new_tokens=2)
    live, ask, _ = asks(model, processor, tmp_path / "out")
    for size in ((100, 60), (60, 130)):
        found = dictated(ask, processor, image=picture(size))
        assert same(found, dictated(live, processor, image=picture(size)))
        assert found[1].shape == (2, *size[::-1]) and found[1].max() == 1
    for regions in ([*FORMS.values()][:3], [FORMS["mask"], FORMS["thin box"], FORMS["point"]]):
        shown = {"text": "", "question": EACH, "regions": regions}
        found = dictated(ask, processor, **shown)
        assert same(found, dictated(live, processor, **shown))
        moved = dictated(ask, processor, **{**shown, "regions": [(60, 40, 95, 58), *regions[1:]]})
        assert not torch.equal(found[2], moved[2])


@pytest.fixture(scope="module")
def both_export(tmp_path_factory):
    """(live model, processor, folder) of a model with masks, shown regions and a gate that was fitted."""
    import transformers.dynamic_module_utils as modules

    import lynx_moe.export.run as run
    from tests.export.exporting import compare_in_this_process

    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("masks")
        patch.setattr(modules, "HF_MODULES_CACHE", str(folder / "modules"))
        patch.setattr(run, "check_in_fresh_process", compare_in_this_process)
        model, processor = llava(MASKS | PROMPTS | TRAINING_ONLY, prompt_gate="auto")
        fitted(model, processor, QUESTION, ["Describe the picture.", "Describe star 1."])
        export(model, processor, folder / "out", route="code", new_tokens=2)
        yield model, processor, folder / "out"


def test_where_the_gate_is_shut_nothing_is_drawn_and_logits_are_the_bases(both_export):
    model, processor, folder = both_export
    live, ask, _ = asks(model, processor, folder)
    opened, shut = dictated(ask, processor), dictated(ask, processor, question="Describe the picture.")
    assert same(opened, dictated(live, processor)) and opened[1].max() == 1
    assert (
        len(shut[1]) == 2
        and (shut[1] == 2).all()
        and same(shut, dictated(live, processor, question="Describe the picture."))
    )
    with model.disable_adapter():
        base = dictated(live, processor, question="Describe the picture.")
    assert torch.equal(shut[2], base[2])
    with set_gate(model, True):
        assert not torch.equal(shut[2], dictated(live, processor, question="Describe the picture.")[2])


@pytest.mark.parametrize("gate", ["auto", "off"])
def test_where_the_gate_is_shut_regions_add_nothing_to_the_bases_input(gate, both_export):
    model, processor, folder = both_export
    live, ask, exported = asks(model, processor, folder)
    exported.config.prompt_gate = gate
    shown = {"text": "", "question": "Describe {region:0}.", "regions": [FORMS["mask"]]}
    shut = dictated(ask, processor, **shown)
    with model.disable_adapter():
        base = dictated(live, processor, text="", question="Describe star 1.")
    assert torch.equal(shut[2], base[2])
    exported.config.prompt_gate = "on"
    with set_gate(model, True):
        assert same(dictated(ask, processor, **shown), dictated(live, processor, **shown))
    assert not torch.equal(shut[2], dictated(ask, processor, **shown)[2])


BAD_REGIONS = {
    "outside": ("{region:0}", [(200, 10, 210, 20)], "sees nothing"),
    "point outside": ("{region:0}", [(50, 61)], "does not see the point"),
    "empty mask": ("{region:0}", [np.zeros((60, 100), bool)], "sees nothing of a mask"),
    "another picture's mask": ("{region:0}", [np.zeros((6, 10), bool)], "100 x 60"),
    "no such region": ("{region:1}", [(5, 5)], "there are 1 regions"),
    "more than vectors": (" ".join(f"{{region:{k}}}" for k in range(5)), [(5, 5)] * 5, "vectors for 4"),
    "no region": ("{region:0}", [(5, 5, 5)], "a box, a point or a mask"),
}


@pytest.mark.parametrize("case", BAD_REGIONS)
def test_regions_that_cannot_be_shown_are_named(case, both_export):
    _, processor, folder = both_export
    question, regions, message = BAD_REGIONS[case]
    with pytest.raises(ValueError, match=message):
        open_export(folder).ask(processor, picture(), f"What is {question}?", regions=regions)


def test_a_word_that_the_answer_is_cut_off_behind_has_no_mask(both_export):
    model, processor, folder = both_export
    live, ask, _ = asks(model, processor, folder)
    ids = processor.tokenizer(WORD).input_ids
    asked = {"image": picture(), "question": QUESTION, "regions": (), "ids": ids, "new_tokens": len(ids)}
    found = fresh.asked_again(ask, asked)
    assert (
        found[0] == WORD
        and len(found[1]) == 1
        and (found[1] == 2).all()
        and same(found, fresh.asked_again(live, asked))
    )


def test_an_answer_without_the_word_has_no_masks(both_export):
    model, processor, folder = both_export
    _, ask, _ = asks(model, processor, folder)
    text, masks, _ = dictated(ask, processor, text="the red square")
    assert text == "the red square" and not len(masks)


def test_heads_stay_float32_in_a_model_of_sixteen_bits(both_export):
    _, processor, folder = both_export
    halved = open_export(folder, dtype=torch.bfloat16)
    assert halved.dtype == torch.bfloat16
    assert {p.dtype for p in halved.lynx_masks.parameters()} == {torch.float32}
    ask, whole = (lambda *args, _m=m, **how: _m.ask(processor, *args, **how) for m in (halved, open_export(folder)))
    for a, b in zip(dictated(ask, processor)[1], dictated(whole, processor)[1], strict=True):
        assert (a == b).float().mean() > 0.9


def test_one_changed_bit_of_a_head_is_found_and_named(both_export, tmp_path):
    folder = tmp_path / "copy"
    folder.mkdir()
    for path in both_export[2].iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    at = 8 + int.from_bytes(data[:8], "little") + header["lynx_masks.query.0.weight"]["data_offsets"][0] + 6
    data[at] ^= 1
    weights.write_bytes(data)
    found = verify(folder)
    assert not found["ok"] and "lynx_masks.query.0.weight" in found["complaints"][0]


def test_a_mask_that_is_not_the_live_models_is_complained_of(both_export, monkeypatch):
    import sys

    from tests.export.exporting import compare_in_this_process

    model, processor, folder = both_export
    monkeypatch.setattr(sys.modules["lynx_moe.export.verify"], "check_in_fresh_process", compare_in_this_process)
    assert verify(folder)["ok"]
    read_asked = fresh.read_asked

    def others(folder):
        asked = read_asked(folder)
        asked["asked: masks"]["masks"][1] ^= 1
        return asked

    monkeypatch.setattr(fresh, "read_asked", others)
    found = verify(folder)
    assert not found["ok"] and found["complaints"] == [f"masks differ from the live model's in {224 * 168} pixels"]


def test_words_that_a_checkpoint_forbids_are_no_difference(tmp_path, quick_check):
    model, processor = llava(MASKS)
    model.get_base_model().generation_config.bad_words_ids = [[7]]
    report = export(model, processor, tmp_path / "out", route="code", new_tokens=2)
    assert fresh.read_asked(tmp_path / "out")["asked: masks"]["logits"][0, 7] < -1e37
    assert report["cases"]["asked: masks"]["max_abs_logit_diff"] == 0.0


def test_route_auto_takes_code_and_says_what_the_others_would_lose(both_export):
    model, processor, _ = both_export
    chosen = plan(model, processor=processor, gate="on")
    assert chosen.route == "code"
    assert "regions are lost" in chosen.better["native"]
    assert "masks are lost: the answer's <ring> words remain words" in chosen.better["native"]


@pytest.mark.parametrize(
    "how", [{"route": "native"}, {"without_heads": True}, {"route": "code", "without_heads": True}]
)
def test_a_head_that_stays_behind_is_named(how, tmp_path, quick_check):
    model, processor = llava(MASKS)
    report = export(model, processor, tmp_path / "out", new_tokens=2, **how)
    assert report["route"] == how.get("route", "native") and report["heads"] == []
    assert "masks are lost: the answer's <ring> words remain words" in report["reasons"]
    assert "Masks are lost" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert not any("mask" in name for name in load_file(tmp_path / "out" / "model.safetensors"))
    assert not (tmp_path / "out" / fresh.ASKED).exists()
    assert not hasattr(open_export(tmp_path / "out"), "ask")
    assert load(tmp_path / "out", trust_remote_code=True).dialect.mask_word == WORD  # what it writes is still read


def test_heads_of_training_alone_are_in_no_export(both_export, tmp_path, quick_check):
    _, processor, folder = both_export
    assert not any("regions" in name for name in load_file(folder / "model.safetensors"))
    model, processor = llava(TRAINING_ONLY)
    assert plan(model, processor=processor).route == "native"
    export(model, processor, tmp_path / "adapter", route="adapter", new_tokens=2)
    assert not (tmp_path / "adapter" / FILE).exists()


def test_route_adapter_takes_the_heads_that_answers_need_along(tmp_path):
    vlm, processor = tiny_llava_with_processor()
    for part in (vlm, processor):
        part.save_pretrained(tmp_path / "base")
    vlm = AutoModelForImageTextToText.from_pretrained(tmp_path / "base").eval().requires_grad_(False)
    model = with_heads(vlm, MASKS | TRAINING_ONLY)
    report = export(model, processor, tmp_path / "out", route="adapter", new_tokens=2)
    assert report["heads"] == ["masks"] and any(FILE in reason for reason in report["reasons"])
    with safe_open(tmp_path / "out" / FILE, "pt") as file:
        assert {name.split(".")[2] for name in file.keys()} == {"masks"}
    loaded = load(tmp_path / "out", base=tmp_path / "base")
    assert loaded.dialect.mask_word == WORD
    live = live_ask(model, processor, code_heads.dialect_of(read(model, processor)))
    again = live_ask(loaded.model, loaded.processor, loaded.dialect)
    assert same(dictated(again, processor), dictated(live, processor))
    found = verify(tmp_path / "out", base=tmp_path / "base")
    assert found["ok"] and found["cases"]["asked: masks"]["mask_pixels_differ"] == 0


def test_what_plain_data_cannot_tell_is_refused_with_the_reason():
    vlm, processor = paligemma()
    model = with_heads(vlm, MASKS)
    with pytest.raises(ExportError, match="--without-heads") as refused:
        plan(model, "code", processor=processor)
    assert "PaliGemmaProcessor" in refused.value.why
    chosen = plan(model, processor=processor)
    assert chosen.route == "adapter" and "PaliGemmaProcessor" in chosen.better["code"]
    assert plan(model, "code", processor=processor, without_heads=True).route == "code"


def test_masks_of_all_tiles_are_refused_as_code():
    model, processor = llava({"masks": MASKS["masks"] | {"tiles": True}})
    with pytest.raises(ExportError, match="--without-heads") as refused:
        plan(model, "code", processor=processor)
    assert "all tiles" in refused.value.why


def test_without_a_processor_nothing_is_known_of_pictures():
    with pytest.raises(ExportError, match="without its processor"):
        plan(llava(MASKS)[0], "code")


def test_a_head_that_the_file_has_no_words_for_is_refused(monkeypatch):
    class Ears(Objective):
        serves, terms, weights, counts, target_maker = True, (), (), None, None

        def __init__(self, width):
            super().__init__()
            self.ear = nn.Linear(width, 2)

        forward = None

    monkeypatch.setitem(OBJECTIVES._entries, "ears", Ears)
    model, processor = llava({"ears": {}})
    with pytest.raises(ExportError, match="'ears'"):
        plan(model, "code", processor=processor)


def test_a_word_that_the_tokenizer_cannot_spell_is_refused(tmp_path, quick_check):
    unspelled = {"masks": {**MASKS["masks"], "word": "[SEG]"}}
    model, processor = llava(unspelled)
    with pytest.raises(ExportError, match=r"\[SEG\]"):
        export(model, processor, tmp_path / "out", route="code")
