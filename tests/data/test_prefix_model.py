"""PaliGemma, whose processor words the prompt itself: our samples are what its own processor makes."""

import pytest
import torch
import transformers

from lynx_moe.data import SampleBuilder, load_records, question_text, target_text
from lynx_moe.families.dialects import PercentDialect
from lynx_moe.families.templates import give_template
from tests.data.written import small_folder
from tests.tiny import tiny_tokenizer


@pytest.fixture(scope="module")
def processor():
    images = transformers.SiglipImageProcessorPil(size={"height": 32, "width": 32})
    images.image_seq_length = 4
    made = transformers.PaliGemmaProcessor(image_processor=images, tokenizer=tiny_tokenizer())
    give_template(made)
    return made


def test_a_sample_is_the_processors_own_with_the_answer_as_its_suffix(processor, tmp_path):
    builder = SampleBuilder(processor, PercentDialect())
    records = [r for r in load_records(small_folder(tmp_path), "train") if len(r.sizes) == 1]
    assert records
    for record in records:
        ours = builder(record)
        theirs = processor(
            images=record.image(),
            text=processor.image_token + question_text(record, builder.dialect),
            suffix=target_text(record, builder.dialect),
            return_tensors="pt",
        )
        for name in ("input_ids", "token_type_ids", "labels", "attention_mask", "pixel_values"):
            assert torch.equal(ours[name].reshape(theirs[name].shape), theirs[name]), name


def test_a_prompt_alone_is_seen_whole(processor):
    builder = SampleBuilder(processor, PercentDialect())
    ids = builder.picture_ids((40, 30))
    assert set(ids.tolist()) == {builder.image_token_id} and len(ids) == 4
    assert not builder.token_types(ids)["token_type_ids"].any()


def test_a_template_that_is_there_stays(processor):
    class PaliGemmaProcessor:
        chat_template = "mine"

    mine = PaliGemmaProcessor()
    give_template(mine)
    assert mine.chat_template == "mine"
