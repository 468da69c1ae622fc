"""Sets of four arrangements, read from questions of sides."""

import pytest

from lynx_moe.data.records import Record
from lynx_moe.errors import RecordError
from lynx_moe.perception.pairs import SIDES, held_out, read_sets


def record(question: str, answer: str, name: str) -> Record:
    return Record(id=name, question=question, answer=answer, kind="understanding", task="side", size=(8, 8),
                  load=lambda: name)  # fmt: skip


FOUR = (
    ("Is the cat left of the dog?", "yes", "left"),
    ("Is the dog right of the cat?", "no", "right"),  # the dog is left of the cat
    ("Is the cat below the dog?", "no", "above"),
    ("Is the dog above the cat?", "yes", "below"),
)


def sets_of(*asked):
    return read_sets([record(*each) for each in asked])


def test_yes_and_no_and_both_orders_say_how_the_first_lies():
    (found,), left = sets_of(*FOUR)
    assert (found.first, found.second, left) == ("cat", "dog", 0)
    assert [load.__self__.id for load in found.pictures] == ["left", "right", "above", "below"]
    assert [found.caption(k) for k in range(4)] == [f"The cat is {side} the dog." for side in SIDES]
    assert found.question(0) == found.question(1) == "Is the cat left of or right of the dog?"
    assert found.statement_asked(3) == "Is the cat below the dog?"


def test_pictures_of_no_whole_set_are_left_out_and_counted():
    found, left = sets_of(*FOUR, ("Is the star above the ring?", "yes", "x"), ("Is the cat above the dog?", "yes", "y"))
    assert (len(found), left) == (1, 2)


@pytest.mark.parametrize("question", ["Does the cat lie above the dog?", "What is above the dog?"])
def test_other_questions_are_refused_with_what_to_make(question):
    with pytest.raises(RecordError, match="how two things lie") as why:
        sets_of((question, "yes", "a"))
    assert "source=arranged" in why.value.fix


def test_no_whole_set_and_no_pair_that_is_held_out_are_refused():
    with pytest.raises(RecordError, match="all four ways"):
        sets_of(*FOUR[:3])
    (found,), _ = sets_of(*FOUR)
    with pytest.raises(RecordError, match="is trained, too"):
        held_out([found], [found])
