"""Pointing in one line: from an exported model, from an adapter on its base, and with boxes in the asker's pixels."""

import json
import math

import pytest
import torch
from PIL import Image

from lynx_moe.errors import CheckpointError
from lynx_moe.grounding.grounder import Grounder, question_about
from tests.tiny import tiny_llava_with_processor


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    model, processor = tiny_llava_with_processor()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def speaking(grounder, text):
    """The grounder with a model that always writes `text`, each token with probability 1/2."""
    tokenizer = grounder._builder.tokenizer
    ids = tokenizer(text)["input_ids"] + [tokenizer.eos_token_id]
    asked = []

    def generate(input_ids, **others):
        asked.append(tokenizer.decode(input_ids[0], skip_special_tokens=True))
        logits = torch.full((len(ids), 1, len(tokenizer)), -1e9)
        for k, token in enumerate(ids):
            logits[k, 0, token] = logits[k, 0, token - 1] = 0.0

        class Out:
            sequences = torch.cat([input_ids, torch.tensor([ids])], dim=1)

        Out.logits = tuple(logits)
        return Out

    grounder.model.generate = generate
    return asked


def test_boxes_are_pixels_of_the_picture_that_was_given(exported, tmp_path):
    grounder = Grounder.from_pretrained(exported)
    asked = speaking(grounder, "The red star is at [25, 50, 50, 75].")
    image = Image.new("RGB", (200, 100))
    boxes = grounder(image, "the red star")
    # The processor pads to a square of 200: 50 pixels above and below.
    assert [box.xyxy for box in boxes] == [(50, 50, 100, 100)]
    assert boxes[0].label == "the red star" and boxes[0].confidence == pytest.approx(0.5)
    assert "Find the red star." in asked[0]
    image.save(tmp_path / "picture.png")
    assert grounder(tmp_path / "picture.png", "the red star") == boxes


def test_boxes_of_earlier_steps_are_not_returned(exported):
    grounder = Grounder.from_pretrained(exported)
    speaking(grounder, "Step 1: Find the cat at [0, 40, 10, 60]. Step 2: It is at [50, 40, 60, 60].")
    answer, boxes = grounder.ask(Image.new("RGB", (100, 100)), "Where is it?")
    assert answer.startswith("Step 1") and [box.xyxy for box in boxes] == [(50, 40, 60, 60)]


def test_nothing_found_is_an_empty_list(exported):
    grounder = Grounder.from_pretrained(exported)
    speaking(grounder, "no red star in picture.")
    assert grounder(Image.new("RGB", (10, 10)), "the red star") == []


def test_real_generation_runs_and_gives_finite_confidence(exported):
    answer, boxes = Grounder.from_pretrained(exported).ask(Image.new("RGB", (30, 20)), "Find the cat.")
    assert isinstance(answer, str) and all(0 < box.confidence <= 1 for box in boxes)


def liking(model, token, by):
    """The model, whose next token is from now on likelier to be `token`."""

    def push(module, args, output):
        output[..., token] += by
        return output

    model.lm_head.register_forward_hook(push)


def test_constrained_answers_hold_only_boxes_that_can_be_read(exported):
    image, bracket = Image.new("RGB", (90, 60)), "["
    for constrain in (False, True):
        grounder = Grounder.from_pretrained(exported, constrain=constrain)
        tokenizer = grounder._builder.tokenizer
        liking(grounder.model, tokenizer.convert_tokens_to_ids(bracket), 100.0)
        text, boxes = grounder.ask(image, "Find the cat.")
        if constrain:
            whole = text[: text.rindex("]") + 1]
            assert len(boxes) == whole.count(bracket) > 1 and all(0 < box.confidence < 1 for box in boxes)
        else:
            assert set(text) == {bracket} and boxes == []


def test_confidence_can_be_the_share_of_drawn_answers_that_have_the_box(exported):
    grounder = Grounder.from_pretrained(exported, constrain=True)
    liking(grounder.model, grounder._builder.tokenizer.convert_tokens_to_ids("["), 100.0)
    image = Image.new("RGB", (90, 60))
    before = torch.random.get_rng_state()
    boxes = grounder(image, "the cat", samples=3)
    assert boxes == grounder(image, "the cat", samples=3)  # the same draws
    assert torch.equal(before, torch.random.get_rng_state())
    plain = grounder(image, "the cat")
    assert [box.xyxy for box in boxes] == [box.xyxy for box in plain]
    assert all(round(box.confidence * 3) == pytest.approx(box.confidence * 3) for box in boxes)
    assert [box.confidence for box in boxes] != [box.confidence for box in plain]


def test_a_saved_temperature_is_applied(exported, tmp_path):
    from lynx_moe.evaluation import Temperature

    Temperature(2.0).save(tmp_path / "temperature.json")
    grounder = Grounder.from_pretrained(exported, calibration=tmp_path / "temperature.json")
    speaking(grounder, "at [25, 50, 50, 75] or [0, 50, 50, 75]")
    boxes = grounder(Image.new("RGB", (200, 100)), "the cat")
    assert [box.confidence for box in boxes] == pytest.approx([math.sqrt(0.5)] * 2)
    sure = Grounder.from_pretrained(exported)
    assert sure.calibration is None and grounder.calibration(0.81) == pytest.approx(0.9)
    with pytest.raises(CheckpointError, match="temperature"):
        Grounder.from_pretrained(exported, calibration=tmp_path / "gone.json")


def test_the_dialect_an_adapter_was_trained_with_is_used_unless_told_otherwise(exported, tmp_path):
    import peft

    from lynx_moe import LynxConfig

    model, _ = tiny_llava_with_processor()
    model.name_or_path = str(exported)
    adapted = peft.get_peft_model(model, LynxConfig(num_experts=2, top_k=1, dialect="llava"))
    adapted.save_pretrained(tmp_path / "adapter")
    grounder = Grounder.from_pretrained(tmp_path, base=exported)
    assert grounder.dialect.name == "llava"
    assert Grounder.from_pretrained(tmp_path / "adapter", base=exported).dialect.name == "llava"
    assert Grounder.from_pretrained(tmp_path, base=exported, dialect="percent").dialect.name == "percent"
    assert type(grounder.model).__name__.startswith("Peft")


def test_folder_without_a_model_says_what_was_looked_for(tmp_path):
    with pytest.raises(CheckpointError, match="adapter_config.json"):
        Grounder.from_pretrained(tmp_path)


def test_missing_base_says_to_give_it(tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(tmp_path / "gone")}))
    with pytest.raises(CheckpointError, match="base="):
        Grounder.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("phrase", "question"),
    [
        ("the cracked gear", "Find the cracked gear."),
        ("a dog", "Find the dog."),
        ("gear", "Find the gear."),
        (" Point to the cat. ", "Point to the cat."),
    ],
)
def test_phrase_becomes_the_plainest_question(phrase, question):
    assert question_about(phrase) == question
