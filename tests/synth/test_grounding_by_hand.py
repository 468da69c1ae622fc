"""Grounding tasks on scenes laid out by hand: what is asked, what is right, what is too near a margin to be asked."""

from dataclasses import replace

import pytest

from synth.scene import Caption, Region, Relation
from tests.synth.by_hand import asked, drafts, found, scene, thing

# Three stars and a cat on 200 x 100 pixels.
RED = thing(0, "star", 10, 40, 40, 70, colour="red", size="small")
BLUE = thing(1, "star", 80, 45, 110, 75, colour="blue", size="large")
LAST = thing(2, "star", 150, 38, 180, 68, colour="red", size="large")
CAT = thing(3, "cat", 84, 2, 108, 22, size="small")


def moved(obj, dx, dy=0):
    x1, y1, x2, y2 = obj.box
    return thing(obj.id, obj.name, x1 + dx, y1 + dy, x2 + dx, y2 + dy, **obj.attributes)


def test_a_thing_is_found_by_what_it_is_like():
    told = found("find_attribute", RED, BLUE, LAST)
    assert told["small star"] == told["small thing"] == ([RED.box], [])
    assert told["blue thing"] == ([BLUE.box], [])
    assert told["large red star"] == told["large red thing"] == ([LAST.box], [])
    assert not {"red star", "red thing", "large star", "large thing"} & set(told), "could mean two"
    assert "blue star" not in told, "find_one asks that"


def test_a_thing_whose_size_or_colour_is_not_known_might_be_meant_too():
    middling = thing(2, "star", 150, 38, 180, 68, colour="red")
    assert "small star" not in found("find_attribute", RED, BLUE, middling)
    assert "blue thing" not in found("find_attribute", RED, BLUE, CAT), "the cat may be blue"
    assert "blue star" not in found("find_one", RED, BLUE, thing(2, "star", 150, 38, 180, 68), complete=False)


def test_of_things_that_nobody_listed_only_names_can_be_asked():
    told = found("find_attribute", RED, BLUE, LAST, complete=False)
    assert set(told) == {"small star", "large red star"}


@pytest.mark.parametrize(
    "others, is_asked", [([], True), ([("metal",)], True), ([("metal",), ("plastic",)], True), ([()], False),
                         ([("wooden", "old")], False), ([("metal",), ("old",)], False)]
)  # fmt: skip
def test_a_trait_is_asked_where_no_other_of_the_name_may_have_it(others, is_asked):
    chair = thing(0, "chair", 0, 0, 20, 20, traits=("wooden",))
    more = [thing(k, "chair", 40 * k, 40, 40 * k + 20, 60, traits=said) for k, said in enumerate(others, 1)]
    assert ("wooden chair" in found("find_attribute", chair, *more, complete=False)) is is_asked


def test_the_second_from_a_side_is_counted_from_there():
    told = found("ordinal", RED, BLUE, LAST, CAT, draws=300)
    assert told["first star from the left"] == ([RED.box], [])
    assert told["second star from the right"] == ([BLUE.box], [[LAST.box]])
    assert told["third star from the left"] == ([LAST.box], [[RED.box], [BLUE.box]])
    assert not any("cat" in phrase for phrase in told), "one cat is no row"
    assert "second thing from the left" not in told, "the cat stands above the blue star"


def test_an_order_that_is_not_plain_is_not_asked():
    near = moved(BLUE, -64)  # 6 pixels, 3 percent, right of the red one
    assert not any("left" in p or "right" in p for p in found("ordinal", RED, near, LAST, draws=200))
    inside = thing(1, "star", 0, 40, 78, 70, colour="blue")  # its middle is further right, its edge is not
    assert not any("left" in p or "right" in p for p in found("ordinal", RED, inside, LAST, draws=200))
    plain = moved(BLUE, -54)
    assert any("left" in p for p in found("ordinal", RED, plain, LAST, draws=200))


def test_the_largest_and_the_closest_are_so_by_a_margin():
    big = thing(1, "star", 80, 25, 130, 75, colour="blue")
    told = found("superlative", RED, big, LAST, CAT, draws=300)
    assert told["largest star"] == told["widest star"] == told["largest thing"] == ([big.box], [])
    assert told["star closest to the cat"] == ([big.box], [[CAT.box]])
    assert "star farthest from the cat" not in told, "two are about as far"
    assert "smallest star" not in told, "two are of one size"
    nearly = thing(1, "star", 80, 40, 118, 75)  # 1330 pixels against 900: not 1.7 times
    assert "largest star" not in found("superlative", RED, nearly, LAST, draws=200)


def test_the_closest_is_closest_by_middle_and_by_edge():
    wide = thing(4, "bus", 112, 8, 198, 16)  # its edge is nearer to the cat than any star, its middle is not
    assert "thing closest to the cat" not in found("superlative", RED, BLUE, wide, CAT, draws=300)
    told = found("superlative", RED, BLUE, LAST, CAT, complete=False, draws=300)
    assert "star closest to the cat" in told and not any("thing" in phrase for phrase in told)


def test_the_nearest_to_the_camera_needs_all_depths():
    near, far = thing(0, "cup", 0, 0, 20, 20, depth=1.0), thing(1, "cup", 50, 0, 70, 20, depth=1.5)
    told = found("superlative", near, far)
    assert told["cup nearest to the camera"] == ([near.box], [])
    assert told["cup farthest from the camera"] == ([far.box], [])
    unknown = thing(2, "cup", 100, 0, 120, 20)
    assert not any("camera" in phrase for phrase in found("superlative", near, far, unknown))


KEY, DOG, OVEN = (
    thing(0, "key", 20, 70, 40, 90), thing(1, "dog", 50, 25, 110, 85), thing(2, "oven", 8, 10, 52, 30)
)  # fmt: skip
BALL = thing(3, "ball", 14, 35, 18, 39)


def test_hops_lead_from_thing_to_thing():
    told = found("multi_hop", KEY, DOG, OVEN, draws=100)
    phrase = "key, then to the thing right of it, then to the thing above that one"
    assert told[f"the {phrase}"] == ([OVEN.box], [[KEY.box], [DOG.box]])
    assert all(len(steps) in (2, 3) for _, steps in told.values())


def test_a_hop_that_could_lead_to_two_is_not_asked():
    second = thing(3, "cup", 160, 70, 180, 90)
    assert not any(p.startswith("the key, then to the thing right") for p in found("multi_hop", KEY, DOG, OVEN, second))
    assert not any("thing" in p for p in found("multi_hop", KEY, DOG, OVEN, complete=False)), "more may lie there"
    assert any("the dog right of it" in p for p in found("multi_hop", KEY, DOG, OVEN, complete=False, draws=100))


MAN, OTHER = thing(0, "man", 10, 10, 40, 90), thing(1, "man", 60, 10, 90, 90)
HAT, HORSE = thing(2, "hat", 12, 10, 38, 20), thing(3, "horse", 100, 30, 160, 95)


@pytest.mark.parametrize(
    "predicate, objects, phrases",
    [
        ("wearing", (MAN, OTHER, HAT), {"man wearing the hat"}),  # a hat is worn by one man only
        ("has", (MAN, OTHER, HAT), set()),  # the other man may have it too
        ("has", (MAN, HAT), {"man that has the hat", "hat that the man has"}),
        ("is on", (MAN, HAT), {"man on the hat", "hat that the man is on"}),
        ("ride", (MAN, HORSE), set()),  # no form that fits into a sentence
        ("r1de {box:0}", (MAN, HORSE), set()),
    ],
)
def test_a_relation_is_asked_where_one_thing_is_meant(predicate, objects, phrases):
    said = [Relation(subject=0, predicate=predicate, object=objects[-1].id)]
    told = found("predicate", *objects, relations=said, complete=False)
    assert set(told) == phrases
    for phrase, (boxes, steps) in told.items():
        asks_man = phrase.startswith("man")
        assert boxes == [(MAN if asks_man else objects[-1]).box]
        assert steps == [[(objects[-1] if asks_man else MAN).box]]


def test_a_relation_that_two_have_is_not_asked_even_of_a_complete_picture():
    said = [Relation(subject=k, predicate="near", object=3) for k in (0, 1)]
    assert "man near the horse" not in found("predicate", MAN, OTHER, HORSE, relations=said)
    assert "man near the horse" in found("predicate", MAN, OTHER, HORSE, relations=said[:1])
    plural = thing(0, "scissors", 10, 10, 40, 90)
    assert found("predicate", plural, HORSE, relations=[Relation(subject=0, predicate="has", object=3)]) == {}


def test_what_is_worn_is_shown_where_its_name_may_mean_another():
    said = [Relation(subject=0, predicate="wearing", object=2), Relation(subject=0, predicate="has", object=2)]
    second = thing(4, "hat", 120, 10, 140, 20)
    for objects, listed in (((MAN, OTHER, HAT), {"exhaustive": False}), ((MAN, OTHER, HAT, second), {})):
        told = drafts("predicate", scene(*objects, relations=said, complete=False, **listed))
        assert {(d.phrase, *d.boxes, *d.question_boxes) for d in told} == {("man wearing the hat", MAN.box, HAT.box)}
        assert {d.question for d in told} >= {"Find the man wearing the hat at {box:0}."}
        assert {d.answer for d in told} == {"The man wearing the hat is at {box:0}."}


def test_counts_are_compared_by_pointing_at_all():
    told = {(d.question, d.answer): d for d in drafts("compare_counts", scene(RED, BLUE, LAST, CAT), draws=200)}
    more = told["Are there more stars than cats?", "Yes, 3 against 1."]
    assert [step.boxes for step in more.steps] == [[RED.box, BLUE.box, LAST.box], [CAT.box]]
    assert more.steps[0].text == "The number of stars is 3: {box:0} {box:1} {box:2}."
    assert told["Are there more cats than stars?", "No, 1 against 3."].boxes == []
    none = next(d for (_, answer), d in told.items() if answer == "Yes, 3 against 0.")
    assert none.steps[1].text in ("There is no key.", "There is no dog.") and none.steps[1].boxes == []
    answers = [d.answer.split(",")[0] for d in drafts("compare_counts", scene(RED, BLUE, LAST, CAT), draws=400)]
    assert 0.4 < answers.count("Yes") / len(answers) < 0.6


def test_a_name_that_may_be_there_unseen_is_not_compared():
    assert not any("unicorn" in q for q, _ in asked("compare_counts", RED, CAT, vocabulary=("star", "cat"), draws=99))


def test_the_odd_one_out_differs_in_what_the_question_names():
    told = found("odd_one_out", RED, BLUE, LAST)
    assert told["odd one out by colour"] == ([BLUE.box], [[RED.box, LAST.box]])
    assert told["odd one out by size"] == ([RED.box], [[BLUE.box, LAST.box]])
    assert "odd one out by kind" not in told and "odd one out by kind" in found("odd_one_out", RED, BLUE, CAT)
    assert "odd one out by colour" not in found("odd_one_out", RED, BLUE, LAST, CAT), "what colour is the cat?"
    assert found("odd_one_out", RED, BLUE) == found("odd_one_out", RED, BLUE, LAST, complete=False) == {}


def test_a_shown_box_is_named():
    (draft,) = drafts("name_region", scene(RED), draws=1)
    assert (draft.answer, draft.boxes, draft.question_boxes) == ("a red star", [], [RED.box])
    assert "{box:0}" in draft.question
    same_place = thing(1, "cat", 12, 40, 40, 70)
    assert drafts("name_region", scene(RED, same_place)) == []


def test_the_colour_of_a_region_is_no_painted_words():
    word = replace(RED, kind="text", name='word "OPEN"', attributes={**RED.attributes, "text": "OPEN"})
    assert {d.answer for d in drafts("region_colour", scene(RED))} == {"red"}
    assert drafts("region_colour", scene(word)) == []  # its plate has another


PLACE, ELSEWHERE = (10, 10, 60, 60), (100, 10, 160, 60)


def test_regions_are_described_and_found():
    here = scene(RED, regions=[Region(text="A man rides.", box=PLACE), Region(text="a dog", box=ELSEWHERE)])
    said = {(d.answer, d.question_boxes[0]) for d in drafts("describe_region", here)}
    assert said == {("A man rides", PLACE), ("a dog", ELSEWHERE)}
    assert {d.phrase: d.boxes for d in drafts("find_region", here)} == {"A man rides": [PLACE], "a dog": [ELSEWHERE]}
    assert drafts("refer", here) == []


def test_words_for_two_places_or_with_holes_in_them_are_not_asked():
    twice = [Region(text="a dog", box=PLACE), Region(text="a dog.", box=ELSEWHERE)]
    assert drafts("find_region", scene(RED, regions=twice)) == []
    unique = [Region(text="left man", box=box, unique=True) for box in (PLACE, ELSEWHERE)]
    assert drafts("refer", scene(RED, regions=unique)) == []
    assert {d.phrase for d in drafts("refer", scene(RED, regions=unique[:1] * 2))} == {"left man"}
    for text in ("see {box:0}", "", " . ", "左の男"):
        assert drafts("refer", scene(RED, regions=[Region(text=text, box=PLACE, unique=True)])) == []
    japanese = scene(RED, regions=[Region(text="左の男", box=PLACE, unique=True)])
    assert {d.phrase for d in drafts("refer", japanese, language="ja")} == {"左の男"}


def test_a_caption_points_at_what_its_spans_mean():
    caption = Caption(text="A cat and two stars.", spans=((0, 5, (3,)), (10, 19, (0, 1)), (2, 12, (2,)), (0, 1, (99,))))
    told = {d.answer: d.boxes for d in drafts("grounded_caption", scene(RED, BLUE, CAT, captions=[caption]))}
    assert told["A cat {box:0} and two stars {box:1} {box:2}."] == [CAT.box, RED.box, BLUE.box]
    assert drafts("grounded_caption", scene(RED, CAT, captions=[Caption(text="Hi")], complete=False)) == []


def test_everything_is_listed_from_left_to_right_where_that_is_plain():
    told = {d.answer: d.boxes for d in drafts("grounded_caption", scene(LAST, RED, BLUE))}
    assert told == {
        "There is a red star at {box:0}, a blue star at {box:1} and a red star at {box:2}.":
        [RED.box, BLUE.box, LAST.box]
    }  # fmt: skip
    assert drafts("grounded_caption", scene(RED, BLUE, CAT)) == [], "the cat is straight above the blue star"


def test_nearer_and_in_front_need_depths_by_a_margin():
    dog, cat = thing(0, "dog", 10, 10, 60, 60, depth=2.0), thing(1, "cat", 40, 20, 90, 70, depth=3.0)
    assert {a for _, a in asked("nearer", dog, cat)} == {"dog"}
    said = asked("in_front", dog, cat)
    assert ("Is the dog in front of the cat?", "yes") in said and ("Is the dog behind the cat?", "no") in said
    near = thing(1, "cat", 40, 20, 90, 70, depth=2.3)
    assert asked("nearer", dog, near) == asked("in_front", dog, near) == set()
    apart = thing(1, "cat", 100, 20, 150, 70, depth=3.0)
    assert asked("nearer", dog, apart) and asked("in_front", dog, apart) == set()
