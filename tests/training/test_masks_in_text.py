"""Records whose answers are masks, trained as outlines in text; where masks cannot be written they are left out."""

from pathlib import Path

import pytest
import transformers

import lynx_moe
import synth
from lynx_moe.data import SampleBuilder, load_records, target_text
from lynx_moe.data.screening import Screen
from lynx_moe.errors import RecordError
from lynx_moe.evaluation import Answered
from lynx_moe.evaluation.masks import outlined
from lynx_moe.families.dialects import get_dialect
from lynx_moe.training import run
from lynx_moe.training.settings import ModelSettings
from tests.training.conftest import made

POCKET = Path(lynx_moe.__file__).parent / "pocket/weights"
TASKS = ["segment_one", "segment_all", "segment_relation"]


@pytest.fixture(scope="module")
def masked_folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("masked")
    for split, size in (("train", 8), ("validation", 3)):
        synth.make(synth.Settings(out=str(out), size=size, split=split, task=[*TASKS, "find_one"], masks=True))
    return out


def settings_of(folder, out, dialect, **changes):
    settings = made("", str(folder), batch_size=2, max_steps=3, **changes)
    settings.model = ModelSettings(path=str(POCKET), dialect=dialect)
    settings.output_dir = str(out)
    return settings


def test_outlines_in_text_are_learned_by_the_experts_alone(masked_folder, tmp_path):
    card = run(settings_of(masked_folder, tmp_path / "run", "florence2"))
    assert card["train"]["steps"] == 3 and 0 < card["train"]["last_answer_loss"] < 20
    assert card["data"]["records"].keys() == {*TASKS, "find_one"} and card["data"]["left_out"] == 0
    assert card["base_hash_unchanged"] is True and card["dead_parameters"] == []


@pytest.mark.parametrize("dialect", ["florence2", "qwen_vl"])
def test_what_is_learned_is_the_mask(masked_folder, dialect):
    processor = transformers.AutoProcessor.from_pretrained(POCKET)
    builder = SampleBuilder(processor, get_dialect(dialect, processor))
    seen = []
    for record in load_records(masked_folder, "train"):
        if not record.speaks_masks:
            continue
        tokens = builder.tokens([record])[0]
        learned = builder.tokenizer.decode(tokens.ids[tokens.answer_at :], skip_special_tokens=True)
        assert learned.strip() == target_text(record, builder.dialect)
        seen += outlined(Answered.read(record, learned, builder.dialect)).overlaps
    assert len(seen) > 30 and sum(seen) / len(seen) > (0.95 if dialect == "florence2" else 0.6)


def test_masks_that_cannot_be_written_are_left_out_and_counted(masked_folder, tmp_path):
    processor = transformers.AutoProcessor.from_pretrained(POCKET)
    records = load_records(masked_folder, "train")
    speaking = sum(record.speaks_masks for record in records)
    screen = Screen(SampleBuilder(processor, get_dialect("percent", processor)))
    kept, left_out = screen.usable(records, range(len(records)))
    assert left_out.counts == {"unwritable": speaking} and len(kept) == len(records) - speaking > 0
    assert "cannot write a mask" in left_out.examples[0]
    with_head = Screen(SampleBuilder(processor, get_dialect("percent", processor, "[SEG]")))
    assert with_head.usable(records, range(len(records)))[1].total == 0
    with pytest.raises(RecordError, match="cannot be used") as caught:
        run(settings_of(masked_folder, tmp_path / "run", "percent", data={"max_left_out": 0.1}))
    assert "cannot write a mask" in str(caught.value)
