"""Answers that speak of masks: no missing box and no error of reading; outlines in text are scored as masks."""

from dataclasses import replace

import numpy as np
import pytest

from lynx_moe.data import target_text
from lynx_moe.data.records import Record, Step
from lynx_moe.evaluation import MEASURES, Answered
from lynx_moe.evaluation.grounding import says_none
from lynx_moe.evaluation.judging import verdict
from lynx_moe.evaluation.protocols.base import Reply
from lynx_moe.evaluation.protocols.reply_mask import reply_mask
from lynx_moe.evaluation.spoken_masks import final_masks
from lynx_moe.families.dialects import DIALECTS
from lynx_moe.grounding import Mask

SIZE = (100, 80)
SPEAKING, OUTLINING, QUADS = (
    DIALECTS.get("percent")().with_mask_word("[SEG]"),
    DIALECTS.get("florence2")(),
    DIALECTS.get("qwen_vl")(),
)


def rectangle(x1, y1, x2, y2):
    array = np.zeros(SIZE[::-1], bool)
    array[y1:y2, x1:x2] = True
    return Mask.of_array(array)


LEFT, RIGHT = rectangle(10, 10, 40, 60), rectangle(55, 20, 95, 70)
ASKED = Record(
    id="r", question="Segment all stars.", answer="Found 2: {mask:0} {mask:1}.", kind="grounding", task="segment_all",
    boxes=((10.0, 10.0, 40.0, 60.0), (55.0, 20.0, 95.0, 70.0)), masks=(LEFT, RIGHT), size=SIZE,
)  # fmt: skip
ONE = replace(ASKED, answer="It is {mask:0}.", boxes=ASKED.boxes[:1], masks=(LEFT,), task="segment_one")
NONE = replace(ASKED, answer="There is no star.", boxes=(), masks=())


def test_answers_with_masks_are_not_scored_as_boxes():
    answered = [Answered.read(r, target_text(r, SPEAKING), SPEAKING) for r in (ASKED, ONE)]
    numbers = MEASURES.get("grounding")(answered)
    assert (numbers["n"], numbers["find_all"], numbers["absent"], numbers["in_words"]) == (0, None, None, None)
    assert numbers["errors"] == {} and numbers["unreadable"] == 0.0 and numbers["no_box"] is None
    boxed = replace(ONE, answer="It is {mask:0} at {box:0}.")  # a box is asked for too
    numbers = MEASURES.get("grounding")([Answered.read(boxed, target_text(boxed, SPEAKING), SPEAKING)])
    assert (numbers["n"], numbers["acc50"], numbers["errors"]) == (1, 1.0, {})


def test_boxes_of_steps_are_scored_where_the_answer_is_a_mask():
    record = replace(ONE, steps=(Step("Find it at {box:0}.", ASKED.boxes[:1]),))
    text = "Step 1: Find it at [10, 13, 40, 75]. Step 2: It is [SEG]."
    numbers = MEASURES.get("grounding")([Answered.read(record, text, SPEAKING)])
    assert numbers["steps"] == {"n": 1, "acc50": 1.0} and numbers["errors"] == {}


@pytest.mark.parametrize("dialect", [OUTLINING, QUADS], ids=["florence2", "qwen_vl"])
def test_outlines_in_text_are_masks(dialect):
    answered = Answered.read(ASKED, target_text(ASKED, dialect), dialect)
    assert len(answered.masks) == 2 and verdict(answered)
    numbers = MEASURES.get("masks")([answered])
    assert numbers["asked"] == 2 and numbers["mean_iou"] > 0.9 and numbers["no_mask"] == 0
    half = Answered.read(ASKED, f"Found 1: {dialect.encode_mask(RIGHT, SIZE)}.", dialect)
    assert not verdict(half) and 0.45 < MEASURES.get("masks")([half])["mean_iou"] <= 0.5
    other = Answered.read(ONE, f"It is {dialect.encode_mask(RIGHT, SIZE)}.", dialect)
    assert not verdict(other) and MEASURES.get("masks")([other])["mean_iou"] == 0


def test_parts_of_one_mask_are_one_mask():
    both = LEFT.array() | RIGHT.array()
    for dialect in (OUTLINING, QUADS):
        text = f"{dialect.encode_mask(Mask.of_array(both), SIZE)} and {dialect.encode_mask(LEFT, SIZE)}"
        parsed = dialect.decode(text, SIZE)
        assert parsed.polygon_masks == [0, 0, 1] and not parsed.errors
        whole, left = final_masks((), parsed, SIZE)
        assert (whole.array() & both).sum() / (whole.array() | both).sum() > 0.9
        assert (left.array() & LEFT.array()).sum() / (left.array() | LEFT.array()).sum() > 0.9


def test_to_name_a_mask_is_not_to_deny():
    assert says_none(Answered.read(NONE, "There is no star.", SPEAKING))
    assert not says_none(Answered.read(NONE, "There is no star [SEG].", SPEAKING))
    text = f"There is no star {OUTLINING.encode_mask(LEFT, SIZE)}."
    assert not says_none(Answered.read(NONE, text, OUTLINING))
    assert says_none(Answered.read(NONE, "There is no star.", OUTLINING))


def test_published_protocols_draw_outlines_as_the_coco_api_does():
    text = OUTLINING.encode_mask(LEFT, SIZE)
    parsed = OUTLINING.decode(text, SIZE)
    wrong = (RIGHT,)  # were it taken, the reply would be another mask
    drawn = reply_mask(Reply(text=text, parsed=parsed, masks=wrong), SIZE, from_box=False)
    assert (drawn & LEFT.array()).sum() / (drawn | LEFT.array()).sum() > 0.95
