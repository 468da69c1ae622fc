"""Questions that show a point, and words painted on a picture: what is asked, what is true, what is caught."""

import io
import json
import random

import numpy as np
import pytest
from PIL import Image

from synth.check import faults, scene_from
from synth.errors import SettingsError
from synth.languages import LANGUAGES, load_pack
from synth.languages.say import SayAll
from synth.lettering import WORDS, name_of
from synth.record import make_picture
from synth.render import COLOURS, SHAPES, things
from synth.scene import Obj
from synth.settings import Settings
from synth.shard import scene_records
from synth.sources.rendered import RenderedOptions, RenderedSource
from synth.tasks import TASKS
from tests.synth.by_hand import drafts, scene, thing

CAT, DOG = thing(0, "cat", 20, 20, 80, 60), thing(1, "dog", 70, 30, 160, 90)
WRITTEN = RenderedOptions(text=0.6)


def painted(k, text, *box, colour="red"):
    return Obj(id=k, name=name_of(text), box=box, kind="text", attributes={"colour": colour, "text": text})


def told(task, facts, *objects):
    return TASKS[task].draft(scene(*objects), facts, SayAll(load_pack("en"), task))


def records(*tasks, options=WRITTEN, count=30, language="en"):
    """(record, scene as the table gives it back) of the tasks over some pictures."""
    settings, source = Settings(language=language, rendered=options), RenderedSource(options)
    for k in range(count):
        drawn = source.scene(k, "train", 3)
        stored = scene_from(make_picture(drawn, "a/b/c"))
        for record in scene_records(drawn, settings, list(tasks))[0]:
            yield record, stored


def test_a_point_lies_in_the_middle_half_of_its_box_and_in_no_other():
    seen = drafts("name_point", scene(CAT, DOG), draws=200)
    assert {draft.answer for draft in seen} == {"a cat", "a dog"}
    points = {draft.question_points[0] for draft in seen}
    for x, y in points:
        cat, dog = 35 <= x <= 65 and 30 <= y <= 50, 92.5 <= x <= 137.5 and 45 <= y <= 75
        assert cat is not dog
    assert len({x for x, _ in points}) > 50, "drawn, not always the middle"
    assert all("{point:0}" in draft.question and not draft.question_boxes for draft in seen)
    for draft in drafts("find_at_point", scene(CAT, DOG)):
        (x, _) = draft.question_points[0]
        assert draft.boxes == [CAT.box if x < 80 else DOG.box]


@pytest.mark.parametrize(
    "point, by, stands",
    [
        ([50, 40], "box", True),
        ([50.5, 30], "box", True),
        ([34.9, 40], "box", False),  # not in the middle half
        ([50, 51], "box", False),
        ([75, 45], "box", False),  # in the dog's box too
        ([50, 40], "mask", False),  # there is none
        ([50, 40], "", False),
        ([float("nan"), 40], "box", False),
        ([float("inf"), 40], "mask", False),
    ],
)
def test_a_point_that_may_mean_something_else_is_not_told(point, by, stands):
    for task in ("name_point", "find_at_point"):
        assert (told(task, {"target": 0, "point": point, "by": by}, CAT, DOG) is not None) is stands


def test_a_thing_too_small_to_be_pointed_at_in_percent_is_not_asked_about():
    assert drafts("name_point", scene(thing(0, "cat", 20, 20, 24, 60))) == []
    assert drafts("name_point", scene(CAT, thing(1, "dog", 30, 25, 70, 55))) == [], "the dog hides the cat's middle"


def ring(k, *box):
    mask = np.zeros((100, 200), bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    mask[box[1] + 15 : box[3] - 15, box[0] + 15 : box[2] - 15] = False
    return Obj(id=k, name="ring", box=tuple(map(float, box)), mask=mask)


def test_by_its_mask_a_thing_is_never_pointed_at_through_its_hole():
    hollow, inside = ring(0, 10, 10, 90, 90), ring(1, 40, 40, 60, 60)
    inside.mask[40:60, 40:60] = True
    for draft in drafts("find_at_point", scene(hollow, inside), draws=300):
        x, y = map(int, draft.question_points[0])
        owner = inside if draft.boxes == [inside.box] else hollow
        assert owner.mask[y - 2 : y + 3, x - 2 : x + 3].all()
    middle = {"point": [50, 50], "by": "mask"}
    assert told("name_point", {"target": 0, **middle}, hollow, inside) is None
    assert told("name_point", {"target": 1, **middle}, hollow, inside) is not None
    boxed = thing(1, "cat", 12, 12, 20, 88)  # no mask: it may cover whatever is in its box
    assert told("name_point", {"target": 0, "point": [16, 50], "by": "mask"}, hollow, boxed) is None


def test_an_annotated_outline_is_not_drawn_to_ask_about_points():
    """Not before the picture's size is known to be the annotated one; the box does."""

    def drawn():
        raise AssertionError("drawn too early")

    cat = Obj(id=0, name="cat", box=(20.0, 20.0, 80.0, 60.0), mask=drawn)
    asked = TASKS["name_point"].ask(scene(cat, complete=False), random.Random(0), "train", load_pack("en"))
    assert [facts["by"] for facts, _ in asked] == ["box"]


def test_a_point_moved_off_its_thing_is_caught():
    rng, tried = random.Random(0), 0
    for record, stored in records("name_point", "find_at_point", options=RenderedOptions(objects=[3, 6])):
        facts = json.loads(record["facts"])
        assert facts["by"] == "mask" and list(faults(record, stored)) == []
        target = stored.by_id(facts["target"])
        mask = target.pixels()
        for _ in range(20):
            x, y = rng.uniform(0, stored.width), rng.uniform(0, stored.height)
            if mask[int(y), int(x)]:
                continue
            moved = {**record, "facts": json.dumps({**facts, "point": [x, y]}), "question_points": [[x, y]]}
            assert list(faults(moved, stored)) == ["the picture does not bear out what is asked"]
            tried += 1
    assert tried > 1000


def test_the_question_of_a_point_counts_its_thing_as_hard_as_it_is():
    small = thing(0, "cat", 20, 20, 36, 36)
    assert {d.difficulty for d in drafts("name_point", scene(small))} == {2}
    assert {d.difficulty for d in drafts("name_point", scene(small, thing(1, "cat", 100, 10, 180, 90)))} == {2, 3}


def test_default_pictures_have_no_words_and_no_question_of_them():
    for k in range(20):
        drawn = RenderedSource().scene(k, "train", 0)
        assert {obj.kind for obj in drawn.objects} <= {"thing", "shape"} and not any('"' in n for n in drawn.vocabulary)
    assert list(records("find_word", "read_word", options=RenderedOptions(), count=5)) == []


@pytest.mark.parametrize("side", [64, 96, 128, 336])
def test_boxes_are_those_of_inked_pixels_and_words_are_whole(side):
    words = 0
    for k in range(25):
        drawn = RenderedSource(RenderedOptions(text=0.6, side=side)).scene(k, "train", 3)
        pixels = np.asarray(Image.open(io.BytesIO(drawn.image_bytes()[0])).convert("RGB"), float)
        assert len({obj.id for obj in drawn.objects}) == len(drawn.objects)
        for obj in drawn.objects:
            rows, columns = np.flatnonzero(obj.mask.any(1)), np.flatnonzero(obj.mask.any(0))
            assert obj.box == (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
            if obj.kind != "text":
                continue
            words += 1
            assert obj.name == name_of(obj.attributes["text"]) and obj.attributes["text"] in WORDS
            assert obj.height >= 7 and obj.visible == 1, "letters that can be read"
            assert not any((obj.mask & other.mask).any() for other in drawn.objects if other is not obj)
            seen = np.median(pixels[obj.mask], axis=0)
            assert min(COLOURS, key=lambda name: np.abs(seen - COLOURS[name]).sum()) == obj.attributes["colour"]
            x1, y1, x2, y2 = map(int, obj.box)
            ground = pixels[y1:y2, x1:x2][~obj.mask[y1:y2, x1:x2]].mean(1)
            assert abs(np.median(ground) - pixels[obj.mask].mean()) > 40, "ink and ground differ"
    assert words > 15


def test_the_share_of_words_is_the_one_asked_for():
    assert all(
        o.kind == "text" for k in range(9) for o in RenderedSource(RenderedOptions(text=1)).scene(k, "a", 0).objects
    )
    many = RenderedSource(RenderedOptions(text=1, objects=[40, 40], alike=1, side=1024)).scene(0, "a", 0)
    said = [(o.attributes["text"], o.attributes["colour"]) for o in many.objects]
    assert len(said) == len(set(said)) > 8, "alike until its colours run out, then others"
    for value in (-0.1, 1.1, "0.5", True):
        with pytest.raises(SettingsError, match="rendered.text"):
            Settings(rendered=RenderedOptions(text=value)).check()


def test_no_word_means_anything_else_or_hides_in_another():
    named = {*things(), *SHAPES, *COLOURS, *load_pack("en").words, "no", "yes", "small", "large"}
    assert not named & {word.lower() for word in WORDS} and len(set(WORDS)) == len(WORDS)
    assert [(a, b) for a in WORDS for b in WORDS if a != b and a in b] == []


def test_a_word_is_found_by_what_it_says_and_read_by_where_it_is():
    open_, exit_ = painted(0, "OPEN", 10, 10, 70, 30), painted(1, "EXIT", 100, 60, 160, 80, colour="blue")
    seen = drafts("find_word", scene(open_, exit_, CAT))
    assert {(d.phrase, d.answer, *d.boxes) for d in seen} == {
        ('word "OPEN"', 'It says "OPEN" at {box:0}.', open_.box),
        ('word "EXIT"', 'It says "EXIT" at {box:0}.', exit_.box),
    }
    assert {d.phrase for d in drafts("find_word", scene(open_, exit_, painted(2, "OPEN", 10, 60, 70, 80)))} == {
        'word "EXIT"'
    }
    read = drafts("read_word", scene(open_, exit_, CAT))
    assert {(d.answer, *d.question_boxes) for d in read if d.question_boxes} == {
        ("OPEN", open_.box),
        ("EXIT", exit_.box),
    }
    by_point = [d for d in read if d.question_points]
    assert {d.answer for d in by_point} == {"OPEN", "EXIT"} and all("{point:0}" in d.question for d in by_point)
    assert told("read_word", {"target": 0}, CAT) is None and told("find_word", {"text": "CAFE"}, open_) is None


def test_sentences_about_words_are_plain():
    objects = [painted(0, "OPEN", 10, 10, 70, 30), painted(1, "OPEN", 100, 60, 160, 80, colour="orange")]
    said = {d.question for task in ("find_all", "count") for d in drafts(task, scene(*objects), draws=60)}
    assert {'Find all words "OPEN".', 'How many words "OPEN" are there?'} <= said
    assert {d.answer for d in drafts("name_region", scene(*objects))} == {'a red word "OPEN"', 'an orange word "OPEN"'}
    japanese = {d.phrase for d in drafts("find_one", scene(*objects), language="ja")}
    assert japanese == {"赤色の「OPEN」という文字", "オレンジ色の「OPEN」という文字"}
    there = scene(*objects, vocabulary=("cat", name_of("OPEN"), name_of("EXIT")))
    assert 'There is no word "EXIT".' in {d.answer for d in drafts("absent", there)}
    assert "「EXIT」という文字はありません。" in {d.answer for d in drafts("absent", there, language="ja")}


def test_words_are_not_called_things():
    """Whether a painted word is a thing, a shape or small, people may well answer differently."""
    tasks = (
        "count",
        "find_attribute",
        "ordinal",
        "superlative",
        "odd_one_out",
        "shape",
        "relation",
        "attribute",
        "beside",
    )
    asked = 0
    for record, stored in records(*tasks, count=60):
        facts, asked = json.loads(record["facts"]), asked + 1
        words = {o.id for o in stored.objects if o.kind == "text"}
        if "name" in facts and facts["name"] is None:
            assert facts.get("target") not in words
            assert not words or record["task"] == "relation", record["question"]
        if record["task"] in ("attribute", "beside", "shape", "odd_one_out"):
            assert facts["target"] not in words, record["question"]
    assert asked > 100


@pytest.mark.parametrize("language", LANGUAGES)
def test_records_of_pictures_with_words_pass_the_checker(language):
    settings = Settings(language=language)
    seen = {task.name: 0 for task in TASKS.values()}
    for record, stored in records(*settings.task_names(), count=12, language=language):
        seen[record["task"]] += 1
        assert list(faults(record, stored if record["image_id"] else None)) == []
    assert min(seen[name] for name in ("find_word", "read_word", "name_point", "find_at_point")) >= 5
