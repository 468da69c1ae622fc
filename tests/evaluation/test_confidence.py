"""Confidence of a box: over the tokens of its numbers, wherever they stand; or by how often it is drawn again."""

import math

import pytest

from lynx_moe.data import final_answer
from lynx_moe.evaluation import Generated, agreement, box_confidences
from lynx_moe.evaluation.token_text import spoken
from lynx_moe.families.dialects import DIALECTS, PercentDialect
from lynx_moe.families.dialects.brackets import BracketDialect
from lynx_moe.grounding import Box
from tests.evaluation.real_tokenizers import all_marks, with_marks

BOXES = [name for name in DIALECTS if DIALECTS.get(name).writes_boxes]
OTHER = "<|other|>"


def answered(tokenizer, parts, marks):
    """An answer made of (text, probability of each of its tokens)."""
    ids, logs = [], []
    for text, probability in parts:
        new = tokenizer(text, add_special_tokens=False)["input_ids"]
        ids += new
        logs += [math.log(probability)] * len(new)
    text, kept = spoken(ids, [], tokenizer, marks)
    return Generated(text, tuple(kept), tuple(logs))


@pytest.mark.parametrize("kind", ["byte level", "sentence piece", "python"])
@pytest.mark.parametrize("name", BOXES)
@pytest.mark.parametrize("before", ["", "  東京 🌟 café: ", f"{OTHER}a{OTHER} "])
def test_each_box_has_the_mean_of_its_own_tokens(kind, name, before):
    dialect, size = DIALECTS.get(name)(), (640, 480)
    tokenizer = with_marks(kind, [*all_marks(dialect), OTHER])
    boxes = [(10, 20, 300, 400), (333, 77, 555, 479)]
    parts = [(before, 0.9), (dialect.encode(boxes[0], size), 0.5), (f" or 🌟{OTHER} ", 0.8)]
    answer = answered(tokenizer, [*parts, (dialect.encode(boxes[1], size), 0.25), (" it is 7.", 0.99)], dialect.marks)
    parsed = dialect.decode(final_answer(answer.text), size)
    assert box_confidences(answer, parsed, tokenizer, dialect) == pytest.approx((0.5, 0.25))


@pytest.mark.parametrize("name", [name for name in BOXES if issubclass(DIALECTS.get(name), BracketDialect)])
def test_brackets_and_commas_do_not_count(name):
    dialect = DIALECTS.get(name)()
    tokenizer = with_marks("python", [])  # a token is a character
    text = dialect.encode((10, 20, 60, 80), (100, 100))
    parts = [(char, 0.5 if char in "0123456789." else 0.01) for char in text]
    answer = answered(tokenizer, [("at ", 0.1), *parts, (" 5.", 0.1)], dialect.marks)
    parsed = dialect.decode(answer.text, (100, 100))
    assert box_confidences(answer, parsed, tokenizer, dialect) == pytest.approx((0.5,))


def test_tokens_of_a_box_are_averaged_geometrically():
    dialect, tokenizer = DIALECTS.get("paligemma")(), with_marks("byte level", all_marks(DIALECTS.get("paligemma")))
    tokens, probabilities = ["<loc0001>", "<loc0002>", "<loc0300>", "<loc0400>"], [0.9, 0.1, 0.5, 0.7]
    answer = answered(tokenizer, list(zip(tokens, probabilities, strict=True)), dialect.marks)
    found = box_confidences(answer, dialect.decode(answer.text, (9, 9)), tokenizer, dialect)
    assert found == pytest.approx((math.prod(probabilities) ** (1 / 4),))


@pytest.mark.parametrize("end", ["", " Step 2: It is at "])
def test_only_the_final_part_is_looked_at(end):
    dialect, tokenizer = PercentDialect(), with_marks("byte level", [])
    parts = [("Step 1: A cat at [1, 2, 3, 4].", 0.3), (end, 0.9), ("[5, 6, 7, 8]", 0.5)]
    answer = answered(tokenizer, parts, ())
    parsed = dialect.decode(final_answer(answer.text), (100, 100))
    assert box_confidences(answer, parsed, tokenizer, dialect) == pytest.approx((0.5,) if end else (0.3, 0.5))


def test_an_answer_without_a_box_has_no_confidence():
    tokenizer = with_marks("byte level", [])
    answer = answered(tokenizer, [("nothing", 0.5)], ())
    assert box_confidences(answer, PercentDialect().decode("nothing", (9, 9)), tokenizer, PercentDialect()) == ()


def test_agreement_is_the_share_of_answers_that_have_the_box():
    one, two = Box(0, 0, 10, 10), Box(50, 50, 60, 60)
    near, far = Box(0, 0, 10, 9), Box(0, 0, 10, 4)
    assert agreement([one, two], [[near], [far], [two, one], []]) == (2 / 4, 1 / 4)
    assert agreement([one], []) == (0.0,) and agreement([], [[one]]) == ()


def test_one_drawn_box_cannot_stand_for_two():
    one, same = Box(0, 0, 10, 10), Box(0, 0, 10, 9)
    assert agreement([one, same], [[same]]) == (0.0, 1.0)  # the better pair has it
    assert agreement([one, same], [[same, one]]) == (1.0, 1.0)
    assert agreement([one], [[same]], same=0.95) == (0.0,)
