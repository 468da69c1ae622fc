"""Stepwise answers cut into forwards, against the paper's own example."""

from dataclasses import replace
from pathlib import Path

import pytest
import transformers

import lynx_moe
from lynx_moe.data import Collator, PackedDataset, SampleBuilder, SampleDataset, final_answer, load_records, target_text
from lynx_moe.data.prompts import step_texts
from lynx_moe.data.records import Record, Step
from lynx_moe.data.sample import IGNORED
from lynx_moe.data.steps import Stepwise, step_tokens
from lynx_moe.errors import RecordError
from lynx_moe.families.dialects import get_dialect
from tests.data.written import stepwise_folder
from tests.tiny import tiny_llava_with_processor

# Question, steps and answer are those of the paper's figure, the boxes' frame is 100 x 100.
FIGURE = Record(
    id="figure", question="What color is the object the man is looking at?", answer="The object is orange.",
    kind="grounding", task="figure", size=(100, 100),
    steps=(
        Step("Find the man at {box:0}.", ((0.0, 13.0, 29.0, 100.0),)),
        Step("Check the object he is looking at {box:0}.", ((21.0, 40.0, 100.0, 100.0),)),
    ),
)  # fmt: skip
ONE = "Step 1: Find the man at [0, 13, 29, 100]."
TWO = "Step 2: Check the object he is looking at [21, 40, 100, 100]."
THREE = "Step 3: The object is orange."
NEXT, ALL = "Let's think of the next step.", "Let's think step-by-step."


@pytest.fixture(scope="module")
def builder():
    """The pocket base's own words and template, whose tokenizer merges letters."""
    processor = transformers.AutoProcessor.from_pretrained(Path(lynx_moe.__file__).parent / "pocket/weights")
    return SampleBuilder(processor, get_dialect("percent", processor), mark_boxes=True, mark_steps=True)


def said(builder, stepwise, record=FIGURE):
    """(input, target) of every forward."""
    decode = builder.tokenizer.decode
    found = []
    for tokens in step_tokens(builder, record, stepwise):
        learned_at = tokens.answer_at + tokens.given
        found.append((decode(tokens.ids[:learned_at]), decode(tokens.ids[learned_at:])))
    return found


def asked(suffix: str) -> str:
    return f"<s>USER: <image>\n{FIGURE.question} {suffix} ASSISTANT:"


def test_faithful_gives_the_inputs_and_targets_of_the_papers_figure(builder):
    assert said(builder, Stepwise("faithful")) == [
        (asked(NEXT), f" {ONE}"),
        (f"{asked(NEXT)} {ONE}", f" {TWO}"),
        (f"{asked(NEXT)} {ONE} {TWO}", f" {THREE}</s>"),
    ]


def test_whole_and_packed_are_one_string_with_the_suffix_of_inference_and_of_the_steps(builder):
    assert said(builder, Stepwise()) == [(asked(ALL), f" {ONE} {TWO} {THREE}</s>")]
    assert said(builder, Stepwise("packed")) == [(asked(NEXT), f" {ONE} {TWO} {THREE}</s>")]


def test_packed_gives_a_segment_to_each_run_of_steps_with_one_suffix(builder):
    assert said(builder, Stepwise("packed", (ALL, NEXT))) == [
        (asked(ALL), f" {ONE}"),
        (f"{asked(NEXT)} {ONE}", f" {TWO} {THREE}</s>"),
    ]
    assert said(builder, Stepwise("packed", (NEXT, ALL, NEXT))) == [
        (asked(NEXT), f" {ONE}"),
        (f"{asked(ALL)} {ONE}", f" {TWO}"),
        (f"{asked(NEXT)} {ONE} {TWO}", f" {THREE}</s>"),
    ]


def test_every_token_knows_its_step_and_what_is_a_box(builder):
    (tokens,) = step_tokens(builder, FIGURE)
    decode = builder.tokenizer.decode
    assert [decode(tokens.ids[tokens.in_step == k]) for k in (1, 2, -1)] == [f" {ONE}", f" {TWO}", f" {THREE}</s>"]
    assert (tokens.in_step[: tokens.answer_at] == 0).all() and (tokens.in_step[tokens.answer_at :] != 0).all()
    middle = builder.sample(step_tokens(builder, FIGURE, Stepwise("faithful"))[1], FIGURE.sizes)
    assert decode(middle["input_ids"][middle["in_box"]]) == " [21, 40, 100, 100]."  # "." is in the token of "].
    assert decode(middle["input_ids"][middle["in_step"] == 2]) == f" {TWO}"
    assert middle["in_step"].unique().tolist() == [0, 2]


def test_what_was_learned_in_steps_is_what_evaluation_reads_in_one_string(builder):
    text = "".join(target for _, target in said(builder, Stepwise("faithful"))).removesuffix("</s>").strip()
    assert text == target_text(FIGURE, builder.dialect)
    assert final_answer(text) == "The object is orange." and len(step_texts(text)) == 2
    plain = SampleBuilder(builder.processor, builder.dialect)
    (asked_for,), (same,) = plain.prompts([FIGURE]), builder.prompts([FIGURE])
    assert builder.tokenizer.decode(asked_for.ids) == asked(ALL) and (asked_for.ids == same.ids).all()


def test_earlier_steps_are_given_but_no_part_of_the_prompt(builder):
    """Where it matters: a prefix model (PaliGemma) lets all of a prompt see all of it."""
    whole, (first, _, last) = step_tokens(builder, FIGURE)[0], step_tokens(builder, FIGURE, Stepwise("faithful"))
    assert first.given == whole.given == 0 and last.answer_at == first.answer_at
    assert builder.tokenizer.decode(last.ids[last.answer_at :][: last.given]) == f" {ONE} {TWO}"


def test_records_without_steps_and_understanding_ones_are_learned_whole(builder):
    for record in (replace(FIGURE, steps=()), replace(FIGURE, kind="understanding")):
        whole = said(builder, Stepwise(), record)
        assert said(builder, Stepwise("faithful"), record) == said(builder, Stepwise("packed"), record) == whole
        assert len(whole) == 1 and "Let's think" not in whole[0][0]
        assert not step_tokens(builder, record)[0].in_step.any()


def test_a_template_that_rewrites_answers_is_told(builder):
    processor = tiny_llava_with_processor()[1]
    processor.chat_template = processor.chat_template.replace("part['text']", "part['text'] | upper")
    marking = SampleBuilder(processor, builder.dialect, mark_steps=True)
    with pytest.raises(RecordError, match="'figure'.*not in the text that the chat template makes"):
        step_tokens(marking, FIGURE, Stepwise("faithful"))


@pytest.fixture(scope="module")
def stepped(tmp_path_factory):
    records = load_records(stepwise_folder(tmp_path_factory.mktemp("records")), "train")
    processor = tiny_llava_with_processor()[1]
    return records, SampleBuilder(processor, get_dialect("percent", processor), mark_steps=True)


def test_a_batch_of_faithful_steps_has_a_row_with_its_picture_for_each(stepped):
    records, builder = stepped
    dataset = SampleDataset(records, builder, stepwise=Stepwise("faithful"))
    assert [len(dataset[k]) for k in range(len(dataset))] == [3, 1, 2, 1, 4]
    batch = Collator(builder.processor)([dataset[0], dataset[1]])
    assert batch["input_ids"].shape[0] == 4 and batch["pixel_values"].shape[0] == 4
    learned = [batch["input_ids"][row][batch["labels"][row] != IGNORED] for row in range(4)]
    assert builder.tokenizer.decode(learned[2]) == " Step 3: The ball is orange.</s>"
    assert (batch["pixel_values"][0] == batch["pixel_values"][2]).all()


def test_packed_rows_count_every_segment_of_a_record(stepped):
    records, builder = stepped
    several = Stepwise("packed", (ALL, NEXT))
    packed = PackedDataset(records, builder, max_tokens=150, stepwise=several)
    assert sorted(k for row in packed.rows for k in row) == list(range(len(records)))
    lengths = [len(packed[k]["input_ids"]) for k in range(len(packed))]
    assert all(length <= 150 or len(row) == 1 for length, row in zip(lengths, packed.rows, strict=True))
    pieces = [length for group in records.by_picture() for _, length in packed._pieces(group, 150)]
    assert pieces == lengths
    assert packed[0]["segment_ids"].max() == 3 and (packed[0]["input_ids"] == 3).sum() == 16
