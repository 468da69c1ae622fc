"""Samples against the processor's own one-call path, and what may be learned."""

import types
from dataclasses import replace

import pytest
import torch
import transformers
from PIL import Image

from lynx_moe.data import Collator, SampleBuilder, SampleDataset, load_records, question_text, target_text
from lynx_moe.data.dataset import askable
from lynx_moe.data.prompts import messages
from lynx_moe.data.records import Record
from lynx_moe.data.screening import hides
from lynx_moe.errors import DialectError, FamilyError, RecordError
from lynx_moe.families.dialects import Geometry, PercentDialect, get_dialect
from tests.data.written import small_folder
from tests.tiny import CHAT_TEMPLATE, tiny_llava_with_processor, tiny_tokenizer


@pytest.fixture(scope="module")
def processor():
    return tiny_llava_with_processor()[1]


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return load_records(small_folder(tmp_path_factory.mktemp("records")), "train")


def tiled_processor():
    """LLaVA-NeXT: the number of picture tokens depends on the picture's size, and newline tokens are mixed in."""
    images = transformers.LlavaNextImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, image_grid_pinpoints=[[32, 64], [64, 32]]
    )
    return transformers.LlavaNextProcessor(
        image_processor=images, tokenizer=tiny_tokenizer(), patch_size=8, vision_feature_select_strategy="default",
        chat_template=CHAT_TEMPLATE, image_token="<image>", num_additional_image_tokens=1,
    )  # fmt: skip


@pytest.mark.parametrize("make", [lambda: tiny_llava_with_processor()[1], tiled_processor], ids=["llava", "llava_next"])
def test_sample_is_what_the_processor_makes_in_one_call(make, records):
    processor = make()
    builder = SampleBuilder(processor, PercentDialect())
    for record in records:
        sample = builder(record)
        turns = messages(
            question_text(record, builder.dialect),
            pictures=len(record.sizes),
            answer=target_text(record, builder.dialect),
        )
        text = processor.apply_chat_template(turns)
        expected = processor(images=record.image() if record.has_image else None, text=text, return_tensors="pt")
        assert torch.equal(sample["input_ids"], expected["input_ids"][0])
        for name in set(expected) - {"input_ids", "attention_mask", "token_type_ids"}:
            assert torch.equal(sample[name], expected[name]), name


def test_labels_are_the_answer_and_its_end_and_nothing_else(processor, records):
    builder = SampleBuilder(processor, get_dialect("percent", processor))
    for record in records:
        sample = builder(record)
        learned = sample["input_ids"][sample["labels"] != -100]
        assert processor.tokenizer.decode(learned) == f" {target_text(record, builder.dialect)}</s>"
        assert torch.equal(sample["labels"][sample["labels"] != -100], learned)


def test_prompt_ends_exactly_where_learning_begins(processor, records):
    builder = SampleBuilder(processor, PercentDialect())
    for record, prompt in zip(records, builder.prompts(records), strict=True):
        sample = builder(record)
        ids = builder.spread(prompt, record.sizes)
        assert sample["input_ids"][: len(ids)].tolist() == ids.tolist()
        assert (sample["labels"][: len(ids)] == -100).all() and sample["labels"][len(ids)] != -100


def test_is_grounding_marks_every_token_of_its_row(processor, records):
    builder = SampleBuilder(processor, PercentDialect())
    marks = [builder(record)["is_grounding"] for record in records]
    assert [m.all().item() for m in marks] == [r.kind == "grounding" for r in records]
    assert [m.any().item() for m in marks] == [r.kind == "grounding" for r in records]


def test_marked_tokens_spell_the_boxes_of_the_answer_and_nothing_else(processor):
    builder = SampleBuilder(processor, PercentDialect(), mark_boxes=True)
    asked = Record(
        id="r", question="What is in [1, 2, 3, 4]?", answer="It is at {box:0}, 7 of 9.", kind="grounding", task="find",
        boxes=((10.0, 20.0, 30.0, 40.0),), size=(100, 100), load=lambda: Image.new("RGB", (100, 100)),
    )  # fmt: skip
    sample = builder(asked)
    assert "[10, 20, 30, 40]" in builder.tokenizer.decode(sample["input_ids"])
    # A token may reach over a box's end, into the full stop that the tokenizer joined to the bracket.
    assert builder.tokenizer.decode(sample["input_ids"][sample["in_box"]]).strip(" ,") == "[10, 20, 30, 40]"
    assert not sample["in_box"][sample["labels"] == -100].any()
    assert "in_box" not in SampleBuilder(processor, PercentDialect())(asked)


def test_boxes_are_not_marked_with_a_tokenizer_that_does_not_know_its_characters(processor):
    slow = tiny_llava_with_processor()[1]
    slow.tokenizer = types.SimpleNamespace(is_fast=False)
    with pytest.raises(FamilyError, match="cannot tell which tokens spell a box"):
        SampleBuilder(slow, PercentDialect(), mark_boxes=True)


def record_of(question="Find it", answer="yes", **changes):
    return Record(id="r", question=question, answer=answer, kind="understanding", task="exists", **changes)


def test_end_is_added_when_the_template_writes_none(processor):
    bare = tiny_llava_with_processor()[1]
    bare.chat_template = CHAT_TEMPLATE.replace("{{ '</s>' }}", "")
    with_end = SampleBuilder(processor, PercentDialect())(record_of())
    assert torch.equal(SampleBuilder(bare, PercentDialect())(record_of())["labels"], with_end["labels"])


def test_what_the_template_writes_after_the_end_is_not_learned(processor):
    chatty = tiny_llava_with_processor()[1]
    chatty.chat_template = CHAT_TEMPLATE.replace("{{ '</s>' }}", "{{ '</s>\n' }}")
    plain = SampleBuilder(processor, PercentDialect())(record_of())
    assert torch.equal(SampleBuilder(chatty, PercentDialect())(record_of())["input_ids"], plain["input_ids"])


def test_picture_token_in_a_question_is_refused_with_the_record_named(processor):
    with pytest.raises(RecordError, match="record 'r'.*1 picture tokens"):
        SampleBuilder(processor, PercentDialect())(record_of("What is <image>"))


def test_processor_without_a_chat_template_is_refused():
    processor = tiny_llava_with_processor()[1]
    processor.chat_template = None
    with pytest.raises(FamilyError, match="no chat template"):
        SampleBuilder(processor, PercentDialect())


def test_dataset_gives_the_builders_samples_also_from_memory(processor, records):
    builder = SampleBuilder(processor, PercentDialect())
    dataset = SampleDataset(records, builder)
    for _ in range(2):
        for position, record in enumerate(records):
            expected = builder(record)
            given = dataset[position]
            assert given.keys() == expected.keys()
            for name in expected:
                torch.testing.assert_close(given[name], expected[name], atol=1e-5, rtol=0)


def test_dataset_can_be_iterated_and_stops(processor, records):
    dataset = SampleDataset(records, SampleBuilder(processor, PercentDialect()))
    assert len(list(dataset)) == len(dataset) == len(records)


def test_remembered_picture_equals_the_first_one_to_the_bit(processor, records):
    dataset = SampleDataset(records, SampleBuilder(processor, PercentDialect()))
    first, again = dataset[0]["pixel_values"], dataset[1]["pixel_values"]
    assert torch.equal(first, again)
    assert dataset._source._pictures.used_bytes == 3 * 32 * 32


def test_no_memory_for_pictures_gives_the_same_samples(processor, records):
    builder = SampleBuilder(processor, PercentDialect())
    frugal, rich = SampleDataset(records, builder, cache_bytes=0), SampleDataset(records, builder)
    assert all(torch.equal(frugal[3][name], rich[3][name]) for name in rich[3])
    assert frugal._source._pictures.used_bytes == 0


def test_records_whose_box_is_cropped_away_are_left_out_and_counted(processor, records):
    # A 24x40 picture and a crop of its middle third: the box in its upper corner cannot be seen.
    geometry = Geometry(resize={"shortest_edge": 24}, crop=(8, 24))
    dataset = SampleDataset(records, SampleBuilder(processor, PercentDialect(geometry)))
    assert dataset.dropped == 1 and "find_all" not in dataset.records.column("task")


def test_records_whose_point_is_cropped_away_are_left_out_too(processor, records):
    builder = SampleBuilder(processor, PercentDialect(Geometry(resize={"shortest_edge": 24}, crop=(8, 24))))
    for point, seen in (((12.0, 20.0), True), ((12.0, 2.0), False)):
        shown = replace(records[3], question="What is at {point:0}?", boxes=(), answer="A.", question_points=(point,))
        assert shown.size == (24, 40) and askable(shown, builder) is seen
        assert hides(shown, builder) is not seen
        if not seen:
            with pytest.raises(DialectError):
                builder(shown)


def test_collator_pads_right_and_hides_padding(processor, records):
    builder = SampleBuilder(processor, PercentDialect())
    samples = [builder(records[k]) for k in (0, 1, 5)]
    batch = Collator(processor)(samples)
    longest = max(len(s["input_ids"]) for s in samples)
    assert batch["input_ids"].shape == batch["labels"].shape == batch["is_grounding"].shape == (3, longest)
    assert batch["pixel_values"].shape == (2, 3, 32, 32)
    for row, sample in enumerate(samples):
        length = len(sample["input_ids"])
        assert torch.equal(batch["input_ids"][row, :length], sample["input_ids"])
        assert batch["attention_mask"][row].tolist() == [1] * length + [0] * (longest - length)
        assert (batch["labels"][row, length:] == -100).all() and not batch["is_grounding"][row, length:].any()
        assert (batch["input_ids"][row, length:] == processor.tokenizer.pad_token_id).all()


def test_collator_pads_left_for_generation(processor, records):
    builder = SampleBuilder(processor, PercentDialect())
    batch = Collator(processor, side="left")([builder(records[0]), builder(records[2])])
    assert batch["attention_mask"][1, 0] == 0 and (batch["attention_mask"][:, -1] == 1).all()


def test_pictures_in_different_numbers_of_tiles_are_filled_with_zeros():
    batch = Collator(tiled_processor())(
        [{"input_ids": torch.tensor([1]), "pixel_values": torch.ones(1, n, 3, 4, 4)} for n in (2, 3)]
    )
    assert batch["pixel_values"].shape == (2, 3, 3, 4, 4)
    assert batch["pixel_values"].sum(dim=(2, 3, 4)).tolist() == [[48, 48, 0], [48, 48, 48]]


def test_batched_loss_is_that_of_the_single_samples(records):
    model, processor = tiny_llava_with_processor()
    builder = SampleBuilder(processor, PercentDialect())
    samples = [builder(records[k]) for k in (0, 1, 2)]
    collate = Collator(processor)

    def nats(batch):
        inputs = {k: v for k, v in batch.items() if k != "is_grounding"}
        return model(**inputs).loss * (batch["labels"][:, 1:] != -100).sum()

    with torch.no_grad():
        single = sum(nats(collate([sample])) for sample in samples)
        torch.testing.assert_close(nats(collate(samples)), single, atol=1e-3, rtol=1e-5)
