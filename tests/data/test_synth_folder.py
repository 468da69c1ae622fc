"""The one meeting point: what synth writes is what this package reads, for every task."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import transformers

from lynx_moe.data import SampleBuilder, SampleDataset, final_answer, load_records, question_text, target_text
from lynx_moe.data.prompts import step_texts
from lynx_moe.families.dialects import DIALECTS, get_dialect
from lynx_moe.families.dialects.brackets import BracketDialect
from lynx_moe.grounding import iou
from tests.tiny import tiny_llava_with_processor

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    command = [sys.executable, "-m", "synth", "source=rendered", "size=6", "split=train", f"out={folder}"]
    found = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=found, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return load_records(folder, "train")


def test_both_kinds_and_text_only_records_arrive(records):
    assert set(records.column("kind")) == {"grounding", "understanding"}
    assert "find_one" in records.counts() and any(size is None for size in map(records.size, range(len(records))))


def test_every_record_becomes_a_sample_with_something_to_learn(records):
    processor = tiny_llava_with_processor()[1]
    dataset = SampleDataset(records, SampleBuilder(processor, get_dialect("percent", processor)))
    assert dataset.dropped == 0
    assert all((sample["labels"] != -100).sum() > 1 for sample in dataset)


@pytest.mark.parametrize("name", [name for name in DIALECTS if DIALECTS.get(name).writes_boxes])
def test_true_answers_read_back_as_the_records_boxes(records, name):
    # Absolute pixels need a processor of their family.
    images = transformers.Qwen2VLImageProcessorPil() if name == "qwen2_5_vl" else tiny_llava_with_processor()[1]
    dialect = get_dialect(name, images)
    read = 0
    for record in records:
        if not record.is_grounding:
            continue
        text = target_text(record, dialect)
        parts = [(final_answer(text), record.boxes)]
        parts += zip(step_texts(text), [step.boxes for step in record.steps], strict=True) if record.steps else []
        for words, boxes in parts:
            parsed = dialect.decode(words, record.size)
            assert len(parsed.boxes) == len(boxes) and not parsed.errors, words
            assert all(iou(got, true) > 0.7 for got, true in zip(parsed.boxes, boxes, strict=True)), record.id
            read += len(boxes)
    assert read > 50


@pytest.mark.parametrize("name", [name for name in DIALECTS if issubclass(DIALECTS.get(name), BracketDialect)])
def test_boxes_that_a_question_shows_are_spelled_in_the_prompt(records, name):
    processor = tiny_llava_with_processor()[1]
    builder = SampleBuilder(processor, get_dialect(name, processor))
    shown = [record for record in records if record.question_boxes]
    assert {record.task for record in shown} == {"name_region", "region_colour"} and len(shown) > 5
    for record, tokens in zip(shown, builder.prompts(shown), strict=True):
        asked = question_text(record, builder.dialect)
        prompt = processor.tokenizer.decode(tokens.ids)  # the tiny tokenizer does not know every word, but all digits
        for text in (asked, prompt):
            (read,) = builder.dialect.decode(text, record.size).boxes
            assert iou(read, record.question_boxes[0]) > 0.7 and "{box" not in text


def test_points_that_a_question_shows_are_spelled_in_the_prompt_and_lie_on_what_is_meant(records):
    processor = tiny_llava_with_processor()[1]
    builder = SampleBuilder(processor, get_dialect("percent", processor))
    shown = [record for record in records if record.question_points]
    assert {record.task for record in shown} == {"name_point", "find_at_point"} and len(shown) > 5
    for record, tokens in zip(shown, builder.prompts(shown), strict=True):
        asked = question_text(record, builder.dialect)
        spelled = builder.dialect.encode_point(record.question_points[0], record.size)
        assert spelled in asked and "{point" not in asked
        left, top, width, height = builder.dialect.geometry.window(record.size)
        # The tiny tokenizer does not know every word, but all digits.
        x, y = map(int, re.search(r"\[ ?(\d+) ?, (\d+) ?\]", processor.tokenizer.decode(tokens.ids)).groups())
        for box in record.boxes:
            assert box[0] < left + x / 100 * width < box[2] and box[1] < top + y / 100 * height < box[3]


def test_pictures_have_the_size_that_is_written(records):
    pictured = [group[0] for group in records.by_picture() if records.picture(group[0]) >= 0]
    assert len(pictured) == 6
    assert all(records[position].image().size == records.size(position) for position in pictured)
