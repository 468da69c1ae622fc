"""Records about several pictures: what the processor itself makes of them, each box in the frame of its own picture."""

import pytest
import torch
import transformers

from lynx_moe.data import Collator, PackedDataset, SampleBuilder, SampleDataset, load_records
from lynx_moe.data.prompts import messages, question_text, target_text
from lynx_moe.errors import RecordError
from lynx_moe.families.dialects import Geometry, PercentDialect, get_dialect
from tests.data.test_sample import tiled_processor
from tests.data.written import picture, record, two_pictures, write_folder
from tests.tiny import CHAT_TEMPLATE, tiny_llava_with_processor, tiny_tokenizer


class QwenPictures(transformers.Qwen2_5_VLProcessor):
    """Qwen's processor without its video part, which needs torchvision."""

    def __init__(self, image_processor=None, tokenizer=None, chat_template=None):
        self.image_token, self.video_token = "<image>", "<pad>"
        self.image_token_id, self.video_token_id = tokenizer.convert_tokens_to_ids(["<image>", "<pad>"])
        transformers.ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)


def qwen_processor():
    """The patches of all pictures in one long row, as many as each picture's size gives."""
    size = {"shortest_edge": 64, "longest_edge": 4096}
    images = transformers.Qwen2VLImageProcessorPil(patch_size=4, merge_size=2, temporal_patch_size=2, size=size)
    return QwenPictures(images, tiny_tokenizer(), CHAT_TEMPLATE)


PROCESSORS = {"llava": lambda: tiny_llava_with_processor()[1], "llava_next": tiled_processor, "qwen": qwen_processor}


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return load_records(two_pictures(tmp_path_factory.mktemp("records")), "train")


@pytest.mark.parametrize("make", PROCESSORS.values(), ids=PROCESSORS)
def test_sample_is_what_the_processor_makes_of_the_whole_conversation(make, records):
    processor = make()
    builder = SampleBuilder(processor, PercentDialect())
    for chosen in records:
        sample = builder(chosen)
        turns = messages(
            question_text(chosen, builder.dialect),
            pictures=len(chosen.sizes),
            answer=target_text(chosen, builder.dialect),
        )
        images = [chosen.image(k) for k in range(len(chosen.sizes))]
        text = processor.apply_chat_template(turns)
        expected = processor(images=images or None, text=text, return_tensors="pt")
        assert torch.equal(sample["input_ids"], expected["input_ids"][0])
        for name in set(expected) - {"input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids"}:
            assert torch.equal(sample[name], expected[name]), name
        if "mm_token_type_ids" in expected:
            assert torch.equal(sample["mm_token_type_ids"], expected["mm_token_type_ids"][0])


def test_every_box_is_spelled_in_the_frame_of_its_own_picture(records):
    processor = tiny_llava_with_processor()[1]  # pads to a square: the frame depends on the size
    dialect = get_dialect("percent", processor)
    asked = records[1]
    assert asked.sizes == ((48, 32), (24, 40)) and (asked.picture, asked.steps[0].picture) == (1, 0)
    first, second = dialect.encode(asked.steps[0].boxes[0], (48, 32)), dialect.encode(asked.boxes[0], (24, 40))
    assert target_text(asked, dialect) == f"Step 1: The first has it at {first}. Step 2: It is at {second}."
    assert dialect.encode(asked.question_boxes[0], (48, 32)) in question_text(asked, dialect)
    assert second != dialect.encode(asked.boxes[0], (48, 32))


def test_boxes_are_marked_in_the_frame_of_any_picture(records):
    """The answer's box lies in what is padding in the first picture's frame."""
    processor = tiny_llava_with_processor()[1]
    builder = SampleBuilder(processor, get_dialect("percent", processor), mark_boxes=True)
    asked = records[1]
    sample = builder(asked)
    marked = builder.tokenizer.decode(sample["input_ids"][sample["in_box"]])
    assert marked.count("[") == marked.count("]") == 2


def test_pictures_come_in_order_also_from_memory(records):
    processor = tiny_llava_with_processor()[1]
    builder = SampleBuilder(processor, get_dialect("percent", processor))
    dataset = SampleDataset(records, builder)
    for _ in range(2):
        for position, asked in enumerate(records):
            given, expected = dataset[position], builder(asked)
            assert given.keys() == expected.keys()
            for name in expected:
                torch.testing.assert_close(given[name], expected[name], atol=1e-5, rtol=0)
    first, second = (dataset[position]["pixel_values"] for position in (0, 2))
    assert torch.equal(dataset[1]["pixel_values"], torch.cat([first, second]))
    assert dataset.source._pictures.used_bytes == 2 * 3 * 32 * 32  # each picture once


def test_a_record_with_a_box_that_its_own_picture_hides_is_left_out(records):
    processor = tiny_llava_with_processor()[1]
    # Only a band in the middle is seen: of the second picture not the place where the answer lies.
    geometry = Geometry(resize={"shortest_edge": 24}, crop=(8, 24))
    dataset = SampleDataset(records, SampleBuilder(processor, PercentDialect(geometry)))
    assert [r.id for r in dataset.records if r.more] == [] and dataset.dropped >= 1


def test_a_packed_row_of_several_pictures_holds_one_record_and_gives_its_logits(records):
    model, processor = tiny_llava_with_processor()
    builder = SampleBuilder(processor, get_dialect("percent", processor))
    packed, single = PackedDataset(records, builder), SampleDataset(records, builder)
    assert packed.rows == [[0, 3], [1], [2], [4]] and records.by_picture() == [[0, 3], [1], [2], [4]]
    collate = Collator(processor)

    def learned(batch):
        here = batch["labels"][:, 1:] != -100
        inputs = {k: v for k, v in batch.items() if k not in ("labels", "is_grounding")}
        with torch.no_grad():
            return model(**inputs).logits[:, :-1][here]

    rows = learned(collate([packed[k] for k in range(len(packed))]))
    alone = torch.cat([learned(collate([single[k]])) for row in packed.rows for k in row])
    torch.testing.assert_close(rows, alone, atol=1e-5, rtol=0)


def test_records_select_and_name_their_pictures(records):
    chosen = records.select([1, 4])
    assert chosen.pictures(0) == [0, 1] and chosen.pictures(1) == [] and chosen.sizes(1) == ()
    assert [each.image_id for each in chosen[0].more] == ["b"]
    assert (chosen[0].image().size, chosen[0].image(1).size) == ((48, 32), (24, 40))
    assert chosen[0].image(1).getpixel((23, 0)) == (10, 200, 90)


def test_tasks_filter_by_the_word_several(tmp_path):
    folder = two_pictures(tmp_path)
    assert load_records(folder, "train", tasks=["several"]).column("task") == ["which_picture"]
    assert "which_picture" not in load_records(folder, "train", tasks=["grounding"]).column("task")  # as in synth
    assert "which_picture" in load_records(folder, "train", tasks=["grounding", "several"]).column("task")
    assert len(load_records(folder, "train", tasks=["several", "count"])) == 2


@pytest.mark.parametrize(
    "first, second, said",
    [
        ("a", "lost", "1 records .* name a picture that is not there"),
        ("a", "", "without a name"),
        ("", "a", "without a name"),
    ],
)
def test_a_picture_that_is_not_there_is_told(tmp_path, first, second, said):
    rows = [record(0, image_id=first, more_image_ids=[second])]
    with pytest.raises(RecordError, match=said):
        load_records(write_folder(tmp_path, [(rows, [picture("a", (8, 6))])]), "train")


def test_boxes_in_a_picture_that_the_record_lacks_are_told(tmp_path):
    rows = [record(0, image_id="a", more_image_ids=[], picture=1, boxes=[[1.0, 1.0, 4.0, 4.0]])]
    (broken,) = load_records(write_folder(tmp_path, [(rows, [picture("a", (8, 6))])]), "train")
    with pytest.raises(RecordError, match="boxes in picture 1 of 1"):
        target_text(broken, PercentDialect())
