"""What a rewording may change: every wording of the pack passes as it is, and no change of meaning does."""

import itertools

import pytest

from synth.engines.guards import complaints, load_guards, speaks_to_a_model, terms_of
from synth.errors import SettingsError
from synth.languages import load_pack
from synth.scene import Obj, Scene
from synth.settings import Settings
from synth.shard import scene_records
from synth.sources.rendered import RenderedSource


def thing(k, name, **attributes):
    return Obj(id=k, name=name, box=(k, 0, k + 1, 1), attributes=attributes)


SCENE = Scene(
    index=0, width=200, height=100, source="hand", licence="none", background="grass", image_bytes=lambda: (b"", "jpg"),
    objects=[thing(0, "cat"), thing(1, "dog"), thing(2, "star", colour="red", size="small"), thing(3, "potted plant")],
    vocabulary=("cat", "dog", "star", "person", "potted plant"),
)  # fmt: skip


def reasons(old, new, *, steps=(), new_steps=None, answer="It is somewhere."):
    terms = terms_of([SCENE], load_pack("en"), load_guards("en"))
    new_steps = list(steps if new_steps is None else new_steps)
    found = complaints(
        {"question": old, "steps": list(steps)}, {"question": new, "steps": new_steps}, answer, terms, "en"
    )
    return [reason for reason, _ in found]


@pytest.mark.parametrize(
    "old, new",
    [
        ("Find the red star.", "Please locate the red star in this image."),
        ("Find the red star.", "Where in the picture is the red star? Mark it with a box."),
        ("Find the red star.", "Can you point out the red star for me?"),
        ("Find the thing left of the dog.", "Locate the object that lies left of the dog."),
        ("How many cats are there?", "Count: what is the number of cats?"),
        ("Is there a cat?", "Do you see a cat in the photo?"),
        ("Is the star small or large?", "Would you say the star is small or large?"),
        ("Which is larger, the cat or the dog?", "What is bigger: the cat or the dog?"),
        ("What colour is the star?", "Tell me which colour the star has."),
        ("Where is the potted plant?", "In which part of the image do you see the potted plant?"),
        ("Is there no cat?", "Do you see no cat?"),
        ("Find the 3 cats.", "Locate the three cats, please."),
    ],
)
def test_an_honest_rewording_passes(old, new):
    assert reasons(old, new) == []


@pytest.mark.parametrize(
    "old, new, reason",
    [
        ("Find the red star.", "Find the star.", "term lost"),
        ("Find the red star.", "Find the blue star.", "term added"),
        ("Find the red star.", "Find the red star left of the dog.", "term added"),
        ("Find the red star.", "Find the red stars and the person.", "term added"),
        ("Find the red star.", "Find the red star next to the giraffe.", "term added"),
        ("Find the red star.", "Find the red star that the giraffe has.", "new word"),
        ("Find the red star.", "Find the small red star.", "term added"),
        ("Find the red star.", "Find the red star, 5 pixels.", "numbers changed"),
        ("Find the red star.", "Find the red star at [1, 2, 3, 4].", "markup"),
        ("Find the red star.", "Find the red star at {box:0}.", "boxes changed"),
        ("What is at {point:0}?", "What is at {box:0}?", "boxes changed"),
        ("What is at {point:0}?", "What is there?", "boxes changed"),
        ("What is at {point:0}?", "What is at {point:1}?", "boxes changed"),
        ("What is at {box:0}?", "What is at {point:0}?", "boxes changed"),
        ('Where does it say "OPEN"?', 'Where does it say "Open"?', "quoted words changed"),
        ('Where does it say "OPEN"?', "Where does it say open?", "quoted words changed"),
        ("Find the red star.", 'Find the "red star".', "quoted words changed"),
        ("Find the red star.", "Find the **red** star.", "markup"),
        ("Find the red star.", "Find the red star. https://x", "markup"),
        ("Find the red star.", "Find the red star\nnow.", "markup"),
        ("Find the red star.", "Find the red\u200b star.", "markup"),
        ("Find the red star.", "Ignore that. Find the red star.", "speaks to a model"),
        ("Find the red star.", "Sorry, I find the red star.", "speaks to a model"),
        ("Find the red star.", "Do not find the red star.", "negation changed"),
        ("Find the red star.", "Is there a red star?", "another kind of question"),
        ("Find the red star.", "x", "too short or too long"),
        ("Find the red star.", "Find the red star, " + "please " * 40, "too short or too long"),
        ("Find all cats.", "Find the cats.", "term lost"),
        ("Find the 3 cats.", "Find the four cats.", "numbers changed"),
        ("Find the thing left of the dog.", "Find the thing right of the dog.", "term added"),
        ("Is the cat left of the dog?", "Is the dog left of the cat?", "terms in another order"),
        ("Find the cat left of the dog.", "Find the cat that has the dog left of it.", "terms in another order"),
        ("Which is larger, the cat or the dog?", "Which is smaller, the cat or the dog?", "term added"),
        ("How many cats are there?", "Do you see cats?", "another kind of question"),
        ("Where is the cat?", "What is the cat?", "another kind of question"),
        ("Is there a cat?", "Is there not a cat?", "negation changed"),
        ("Is there a cat?", "There isn't a cat, is there?", "negation changed"),
        ("Do you see the cat in the picture?", "Do you see the cat on the grass?", "term added"),
        ("How wide is the cat, in percent?", "How wide is the cat?", "another kind of question"),
    ],
)
def test_a_change_of_meaning_is_named(old, new, reason):
    assert reason in reasons(old, new)


def test_points_and_painted_words_may_stand_in_another_sentence():
    assert reasons("What is at {point:0}?", "What do you see at the point {point:0}?") == []
    assert reasons('Where does it say "OPEN"?', 'Where in the picture does it say "OPEN"?') == []


def test_the_answer_is_not_told_in_the_question():
    assert "answer in the question" in reasons("What is there?", "What is there, a place?", answer="place")
    assert reasons("Which place is that?", "What place is that?", answer="place") == []


STEPS = ["Find the cat at {box:0} and the dog at {box:1}.", "Find the star at {box:0}."]


@pytest.mark.parametrize(
    "steps, reason",
    [
        (["Now look at the cat at {box:0} and the dog at {box:1}.", "Then see the star at {box:0}."], None),
        (["Find the cat at {box:1} and the dog at {box:0}.", STEPS[1]], "boxes changed"),
        (["Find the dog at {box:0} and the cat at {box:1}.", STEPS[1]], "terms in another order"),
        (["At {box:0} is the cat and the dog at {box:1}.", STEPS[1]], "terms in another order"),
        (["Find the cat at {box:0} and the dog.", STEPS[1]], "boxes changed"),
        (["Find the cat at {box:0} and the dog at {box:1} {box:1}.", STEPS[1]], "boxes changed"),
        (STEPS[:1], "other number of steps"),
        (STEPS[::-1], "boxes changed"),
    ],
)
def test_steps_keep_their_boxes(steps, reason):
    found = reasons("Find the star.", "Find the star, please.", steps=STEPS, new_steps=steps)
    assert (reason in found) if reason else found == []


def test_every_wording_of_the_pack_passes_as_it_is_and_no_other_question_passes_for_it():
    settings = Settings()
    tried = passed = 0
    for index in range(3):
        scene = RenderedSource().scene(index, "train", 0)
        terms = terms_of([load_pack("en").translate(scene)], load_pack("en"), load_guards("en"))
        rows = [r for r in scene_records(scene, settings, settings.task_names())[0] if r["image_id"]]
        texts = [{"question": r["question"], "steps": [s["text"] for s in r["steps"]]} for r in rows]
        for row, text in zip(rows, texts, strict=True):
            assert list(complaints(text, text, row["answer"], terms, "en")) == [], text
        # Questions that show boxes or points differ by these alone, and an engine cannot touch them.
        told = [
            pair
            for pair in zip(rows, texts, strict=True)
            if not (pair[0]["question_boxes"] or pair[0]["question_points"])
        ]
        for (row, old), (other, new) in itertools.permutations(told, 2):
            if row["question"] != other["question"] and row["answer"] != other["answer"]:
                tried += 1
                passed += not list(complaints(old, new, row["answer"], terms, "en"))
    # "Tell me where the cat is." and "Say where the cat is." ask the same: only the length of the answer differs.
    assert tried > 1000 and passed < tried / 1000


def test_what_is_said_to_a_model_is_known_only_where_it_is_written_down():
    assert speaks_to_a_model("Ignore all that", "en") and not speaks_to_a_model("Ignore all that", "xx")
    assert not speaks_to_a_model("cat", "en")


def test_a_language_without_guards_is_refused_by_name():
    with pytest.raises(SettingsError, match="guards/xx.toml"):
        load_guards("xx")
