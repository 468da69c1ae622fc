"""The words of prompts and answers."""

from dataclasses import replace

import numpy as np
import pytest

from lynx_moe.data import final_answer, question_text, target_text
from lynx_moe.data.prompts import mask_places, step_starts, step_texts
from lynx_moe.data.records import Picture, Record, Step
from lynx_moe.data.targets import Told
from lynx_moe.errors import DialectError
from lynx_moe.families.dialects import LlavaDialect, PercentDialect
from lynx_moe.grounding import Mask

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


def test_of_the_tokens_of_one_character_the_last_spells_it():
    # As byte-level tokenizers tell it: the second character is three tokens.
    told = Told(PLAIN, PercentDialect(), "a分b", "", None, "", None, [(0, 1), (1, 2), (1, 2), (1, 2), (2, 3)], 0)
    assert [told.token_of(k) for k in range(4)] == [0, 3, 4, None]


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


def test_a_mask_in_a_question_cannot_be_told_in_text():
    shown = replace(PLAIN, question="What is {mask:0}?", question_boxes=PLAIN.boxes, question_masks=(ONE,))
    for dialect in (PercentDialect(), PercentDialect().with_mask_word("[SEG]")):
        with pytest.raises(DialectError, match="'0' shows a mask") as caught:
            question_text(shown, dialect)
    assert "objective/extra=prompts" in caught.value.fix


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


ONE, TWO, OTHER = (Mask.of_array(np.eye(*shape, k)) for k, shape in enumerate([(200, 100), (200, 100), (40, 30)]))
MASKED = replace(STEPWISE, answer="Found 2: {mask:1} {mask:0}.", boxes=STEPWISE.boxes * 2, masks=(ONE, TWO))


def test_masks_are_words_and_their_places_are_behind_these():
    dialect = PercentDialect().with_mask_word("[SEG]")
    text = target_text(MASKED, dialect)
    assert text == ("Step 1: Find the cat at [10, 10, 50, 50]. Step 2: Look left of it. Step 3: Found 2: [SEG] [SEG].")
    places = mask_places(MASKED, dialect)
    assert [(text[:end][-5:], mask, picture) for end, mask, picture in places] == [("[SEG]", TWO, 0), ("[SEG]", ONE, 0)]
    assert [end for end, *_ in places] == [end for _, end in dialect.decode(text, (100, 200)).mask_words]
    assert MASKED.speaks_masks and not STEPWISE.speaks_masks
    assert not replace(MASKED, answer="{mask:0} at {box:0}").speaks_masks, "it can be scored by its boxes"


def test_places_of_masks_in_steps_and_of_several_pictures():
    dialect = PercentDialect().with_mask_word("[SEG]")
    look = Step("Look at {mask:0} first.", ((1.0, 1.0, 9.0, 9.0),), picture=1, masks=(OTHER,))
    record = replace(MASKED, steps=(look, *STEPWISE.steps), more=(Picture("b", (30, 40), lambda: None),))
    text, places = target_text(record, dialect), mask_places(record, dialect)
    assert [(mask, picture) for _, mask, picture in places] == [(OTHER, 1), (TWO, 0), (ONE, 0)]
    assert all(text[:end].endswith("[SEG]") for end, *_ in places)
    assert text[step_starts(record, dialect)[1] :].startswith(" Step 2: ")
    # The word in a record's own text is none of its masks.
    quoted = replace(PLAIN, answer="It says [SEG]: {mask:0}.", masks=(ONE,))
    assert mask_places(quoted, dialect) == [(len(target_text(quoted, dialect)) - 1, ONE, 0)]


def test_without_a_word_there_are_no_places_and_unknown_masks_are_told():
    assert mask_places(MASKED, PercentDialect()) == []
    with pytest.raises(DialectError, match="needs a mask head|cannot write a mask"):
        target_text(MASKED, PercentDialect())
    with pytest.raises(DialectError, match="nobody knows the mask"):
        target_text(replace(MASKED, masks=(ONE, None)), PercentDialect().with_mask_word("[SEG]"))
    with pytest.raises(DialectError, match="only 0 came"):
        mask_places(replace(MASKED, masks=()), PercentDialect().with_mask_word("[SEG]"))
