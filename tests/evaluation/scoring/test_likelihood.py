"""Likelihood, against transformers' own loss on the same conversation."""

import pytest
import torch

from lynx_moe.data import Record, SampleBuilder
from lynx_moe.evaluation.scoring import make_scorer
from lynx_moe.families.dialects import PercentDialect
from tests.evaluation.scoring.asking import TEXTS, ask, picture
from tests.tiny import tiny_llava_with_processor


@torch.no_grad()
def loss_of(model, processor, question, text):
    """Mean and number of answer tokens, by the model's own loss on a training sample."""
    image = picture(0)
    record = Record(
        id="r", question=question, answer=text, kind="understanding", task="t", size=image.size, load=lambda: image
    )
    sample = SampleBuilder(processor, PercentDialect())(record)
    inputs = {name: value[None] for name, value in sample.items() if name in ("input_ids", "labels", "attention_mask")}
    loss = model(**inputs, pixel_values=sample["pixel_values"]).loss.item()
    return loss, int((sample["labels"] != -100).sum())


@pytest.mark.parametrize("text", TEXTS)
def test_it_is_minus_the_loss_of_training_on_that_answer(text):
    model, processor = tiny_llava_with_processor()
    loss, tokens = loss_of(model, processor, "Describe the image.", text)
    (mean,) = make_scorer("likelihood", model, processor)([ask(0, text)])
    (total,) = make_scorer("likelihood", model, processor, total=True)([ask(0, text)])
    assert mean == pytest.approx(-loss, abs=1e-5) and total == pytest.approx(-loss * tokens, abs=1e-4)


def test_the_protocols_question_is_asked_if_wanted_and_there_is_one():
    model, processor = tiny_llava_with_processor()
    asks = [ask(0, "a red dog"), ask(0, "a red dog", "what is it?")]
    plain = make_scorer("likelihood", model, processor)(asks)
    assert plain[0] == plain[1]
    scores = make_scorer("likelihood", model, processor, protocol_question=True)(asks)
    assert scores[0] == pytest.approx(plain[0], abs=1e-5)
    assert scores[1] == pytest.approx(-loss_of(model, processor, "what is it?", "a red dog")[0], abs=1e-5)


def test_notes_say_what_was_asked_and_summed():
    model, processor = tiny_llava_with_processor()
    notes = make_scorer("likelihood", model, processor, protocol_question=True, total=True).notes
    assert "the protocol's" in notes["question"] and notes["score"].startswith("summed")
