"""The words of prompts and answers."""

from dataclasses import replace

from lynx_moe.data import final_answer, question_text, target_text
from lynx_moe.data.prompts import step_texts
from lynx_moe.data.records import Record, Step
from lynx_moe.families.dialects import LlavaDialect, PercentDialect

PLAIN = Record(
    id="0", question="Find the cat.", answer="The cat is at {box:0}.", kind="grounding", task="find_one",
    boxes=((10.0, 20.0, 50.0, 100.0),), size=(100, 200),
)  # fmt: skip
STEPWISE = Record(
    id="1", question="What is left of the cat?", answer="It is {box:0}.", kind="grounding", task="relation",
    boxes=((0.0, 0.0, 10.0, 20.0),), size=(100, 200),
    steps=(Step("Find the cat at {box:0}.", ((10.0, 20.0, 50.0, 100.0),)), Step("Look left of it.")),
)  # fmt: skip


def test_plain_target_is_the_answer_with_its_box_spelled():
    assert target_text(PLAIN, PercentDialect()) == "The cat is at [10, 10, 50, 50]."


def test_steps_are_numbered_and_the_answer_is_the_last_step():
    assert target_text(STEPWISE, PercentDialect()) == (
        "Step 1: Find the cat at [10, 10, 50, 50]. Step 2: Look left of it. Step 3: It is [0, 0, 10, 10]."
    )


def test_only_stepwise_grounding_questions_get_the_suffix():
    assert question_text(PLAIN, PercentDialect()) == "Find the cat."
    assert question_text(STEPWISE, PercentDialect()) == "What is left of the cat? Let's think step-by-step."


def test_boxes_of_the_question_are_spelled_in_the_dialect_of_the_model():
    shown = replace(PLAIN, question="What is at {box:0}?", answer="A cat.", boxes=(), question_boxes=PLAIN.boxes)
    assert question_text(shown, PercentDialect()) == "What is at [10, 10, 50, 50]?"
    assert question_text(shown, LlavaDialect()) == "What is at [0.10, 0.10, 0.50, 0.50]?"
    assert target_text(shown, PercentDialect()) == "A cat."


def test_points_of_the_question_are_spelled_too():
    asked = replace(PLAIN, question="Give the box of the thing at {point:0}.", question_points=((25.0, 150.0),))
    assert question_text(asked, PercentDialect()) == "Give the box of the thing at [25, 75]."
    assert question_text(asked, LlavaDialect()) == "Give the box of the thing at [0.25, 0.75]."
    assert target_text(asked, PercentDialect()) == "The cat is at [10, 10, 50, 50]."


def test_braces_of_a_question_without_boxes_are_left_alone():
    assert question_text(replace(PLAIN, question="What does {box:0} or {point:0} mean?"), PercentDialect()) == (
        "What does {box:0} or {point:0} mean?"
    )


def test_final_answer_and_steps_undo_the_target():
    text = target_text(STEPWISE, PercentDialect())
    assert final_answer(text) == "It is [0, 0, 10, 10]."
    assert step_texts(text) == ["Find the cat at [10, 10, 50, 50].", "Look left of it."]


def test_text_without_steps_is_its_own_final_answer():
    assert final_answer(" No. ") == "No." and step_texts("No.") == []
