"""Answers of the understanding tasks on scenes laid out by hand, where a person can see what is true."""

import re

import pytest

from synth.scene import Caption, Obj, Question, Region, Relation
from synth.tasks import TASKS
from synth.tasks.base import task
from tests.synth.by_hand import asked, thing, with_mask

CAT = thing(0, "cat", 10, 5, 50, 25)  # 40 x 20 at the top left
DOG = thing(1, "dog", 150, 30, 190, 90)  # 40 x 60 at the lower right
# From the key right to the dog, from there up to the cat, in front of which the dog stands.
KEY_DOG_CAT = (
    thing(0, "key", 20, 70, 40, 90, size="small"), thing(1, "dog", 50, 25, 110, 85, size="large", depth=2.0),
    thing(2, "cat", 8, 10, 52, 30, size="small", depth=4.0),
)  # fmt: skip
SAID = {
    "relations": [Relation(subject=1, predicate="near", object=2)],
    "regions": [
        Region(text="a dog in the grass", box=(50, 25, 110, 85)),
        Region(text="dog on the right", box=(50, 25, 110, 85), unique=True),
    ],
    "captions": [Caption(text="A dog beside a cat.", spans=((0, 5, (1,)), (13, 18, (2,))))],
}
STARS = (thing(2, "star", 90, 10, 110, 30, colour="red"), thing(3, "star", 90, 70, 110, 90, colour="blue"))


@pytest.mark.parametrize(
    "task, objects, question, answer",
    [
        ("where", (CAT, DOG), "Where is the cat?", "top far left"),
        ("where", (CAT, DOG), "Where is the dog?", "lower far right"),
        ("places", (CAT,), "Say where the cat is.", "The cat is at the top far left."),
        ("places", (CAT, CAT), "Say where each cat is.", "2 cats: at the top far left, at the top far left."),
        ("sizes", (CAT,), "Tell me the size of the cat, in numbers.", "The cat is of size [20, 20]."),
        ("sizes", (DOG,), "Tell me the size of each dog.", "1 dog: [20, 60]."),
        ("measure", (CAT, DOG), "How wide is the cat, in percent?", "20 percent"),
        ("measure", (CAT, DOG), "What is the height of the dog, in percent?", "60 percent"),
        ("form", (CAT, DOG), "Is the cat wide or tall?", "wide"),
        ("form", (CAT, DOG), "Is the dog wide or tall?", "tall"),
        ("larger", (CAT, DOG), "Which is larger, the cat or the dog?", "dog"),
        ("further", (CAT, DOG), "Which is further left, the dog or the cat?", "cat"),
        ("further", (CAT, DOG), "Which is lower, the cat or the dog?", "dog"),
        ("side", (CAT, DOG), "Is the cat left of the dog?", "yes"),
        ("side", (CAT, DOG), "Is the dog left of the cat?", "no"),
        ("count", (CAT, DOG, *STARS), "How many stars are there?", "2"),
        ("count", (CAT, DOG, *STARS), "How many things are there?", "4"),
        ("count", (CAT, DOG), "How many keys are there?", "0"),
        ("colour", (STARS[0],), "What colour is the star?", "red"),
        ("shape", STARS, "Which shape is blue?", "star"),
        ("describe", (DOG, STARS[0], CAT), "Describe the picture.", "a cat, a red star and a dog"),
    ],
)
def test_the_answer_is_what_the_scene_shows(task, objects, question, answer):
    assert (question, answer) in asked(task, *objects)
    assert {a for q, a in asked(task, *objects) if q == question} == {answer}, "one question, two answers"


@pytest.mark.parametrize("task", ["colour", "where", "size", "form", "measure"])
def test_what_a_phrase_could_mean_twice_is_not_asked(task):
    assert not any(" star" in q and "red" not in q and "blue" not in q for q, _ in asked(task, *STARS))


NOT_LISTED_IN_FULL = {
    "describe_region", "exists", "find_region", "grounded_caption", "name_region", "predicate", "refer",
    "teacher_steps",
}  # fmt: skip


def test_where_instances_may_be_missing_no_name_means_one_thing_alone():
    """A second cat that nobody listed would make every other question false or have two answers."""
    known = {
        **SAID, "complete": False, "questions": [Question(text="Why?", steps=(("At {box:0}.", (1,)),), answer="So.")],
        "relations": [*SAID["relations"], Relation(subject=1, predicate="wearing", object=2)],
    }  # fmt: skip
    of_one = [n for n, task in TASKS.items() if task.needs_image and task.pictures == 1]
    told = {n: asked(n, *KEY_DOG_CAT, STARS[0], exhaustive=False, **known) for n in of_one}
    assert {name for name, questions in told.items() if questions} == {*NOT_LISTED_IN_FULL, "background"}
    sure = {n: asked(n, *KEY_DOG_CAT, *STARS, **known) for n in ("find_one", "relation", "superlative")}
    assert all(sure.values())
    traits = [thing(k, "chair", 40 * k, 0, 40 * k + 20, 20, traits=(t,)) for k, t in enumerate(("wooden", "metal"))]
    assert asked("find_attribute", *traits, complete=False)
    assert not asked("find_attribute", *traits, complete=False, exhaustive=False)


def test_facts_come_in_the_order_asked_and_never_amount_to_a_box():
    true = {"row": "top", "column": "far left", "form": "wide", "width": "20", "height": "20"}
    found = asked("facts", CAT, draws=200)
    assert len(found) > 50
    for question, answer in found:
        words = re.findall(r"row|column|form|width|height|size|colour", question)
        assert answer == f"The cat: [{', '.join(true[word] for word in words)}]."
        assert 2 <= len(words) <= 4 and not set(words) >= {"row", "column", "width", "height"}


def test_doubtful_extents_and_places_are_not_asked():
    between = thing(0, "cat", 0, 0, 50, 25)  # a quarter: as near to 20 as to 30 percent
    assert asked("measure", between) == asked("sizes", between) == set()
    on_the_edge = thing(0, "cat", 64, 22, 104, 62)  # its middle lies on the edge between two rows and two columns
    assert asked("where", on_the_edge) == set()
    assert asked("form", thing(0, "cat", 0, 0, 24, 20)) == set()


@pytest.mark.parametrize(
    "task",
    sorted(name for name, t in TASKS.items() if t.pictures == 1 and name not in ("numbers", "teacher_steps", "words")),
)
def test_unseen_wordings_are_not_in_training(task):
    def ready(things):
        return list(map(with_mask, things)) if TASKS[task].masks else things

    objects, known = ready((CAT, DOG, thing(2, "star", 90, 10, 110, 30, colour="red", size="small"))), {}
    if task in ("find_word", "read_word"):
        word = {"colour": "red", "text": "OPEN"}
        objects = (Obj(id=0, name='word "OPEN"', box=(10, 10, 70, 30), kind="text", attributes=word),)
    elif not asked(task, *objects):
        objects, known = ready(KEY_DOG_CAT), SAID
    seen = {q for q, _ in asked(task, *objects, **known)}
    unseen = {q for q, _ in asked(task, *objects, split="unseen", **known)}
    assert seen and unseen and not seen & unseen


@pytest.mark.parametrize("name", ["grounding", "understanding", "several"])
def test_a_task_cannot_be_called_like_a_kind(name):
    with pytest.raises(ValueError, match="all tasks of the kind"):
        task(name, kind="grounding", propose=lambda scene, rng: [])
