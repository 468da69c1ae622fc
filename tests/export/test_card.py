"""The model card: the base's licence travels, and numbers and data are the run's own."""

import pytest
import yaml
from huggingface_hub import ModelCard
from transformers import AutoModelForImageTextToText

from lynx_moe.export.card import base_licence
from lynx_moe.export.provenance import Data, Provenance
from tests.adapter.speaking import adapted
from tests.export.exporting import export_of
from tests.tiny import tiny_llava

MEASURED = {
    "split": "validation",
    "gate": "auto",
    "n": 8,
    "before": {"grounding": {"acc50": 0.0}, "retention": {"accuracy": 0.75}},
    "after": {"grounding": {"acc50": 0.5}, "retention": {"accuracy": 0.5}},
    "change": {"n": 4, "lost": 1, "won": 0, "mcnemar_p": 1.0},
}


def test_card_has_the_bases_licence_the_runs_numbers_and_its_datas_licences(tmp_path, quick_check):
    vlm, inputs = tiny_llava()
    vlm.save_pretrained(tmp_path / "base")
    (tmp_path / "base" / "README.md").write_text("---\nlicense: apache-2.0\n---\n# base\n")
    (tmp_path / "base" / "LICENSE").write_text("terms")
    (tmp_path / "base" / "NOTICE.txt").write_text("thanks")
    vlm = AutoModelForImageTextToText.from_pretrained(tmp_path / "base")
    origin = Provenance(
        command="lynx-moe export outputs/run --to outputs/mine",
        repository="someone/base",
        data=Data("gears", ("train",), {"grounding": 3}, ("CC-BY-4.0",)),
        evaluation=MEASURED,
    )
    export_of(adapted(vlm), inputs, tmp_path / "out", route="code", provenance=origin)
    card = ModelCard.load(tmp_path / "out" / "README.md")
    header = card.data.to_dict()
    assert (header["license"], header["base_model"]) == ("apache-2.0", "someone/base")
    assert [(tmp_path / "out" / name).read_text() for name in ("LICENSE", "NOTICE.txt")] == ["terms", "thanks"]
    found = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert found["grounding_acc50"] == 0.5 and found["retention_accuracy"] == 0.5
    for words in ("- CC-BY-4.0", "lost on 1 and won on 0", "lynx-moe export outputs/run --to outputs/mine", "LICENSE"):
        assert words in card.text, words
    assert str(tmp_path) not in card.text + yaml.safe_dump(header)


@pytest.mark.parametrize("text", [None, "# no header\n", "---\nnot: [yaml\n---\n"])
def test_licence_that_is_not_known_is_other(tmp_path, text):
    if text is not None:
        (tmp_path / "README.md").write_text(text)
    assert base_licence(tmp_path) == base_licence(None) == {"license": "other"}
