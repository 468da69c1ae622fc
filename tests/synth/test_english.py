"""English grammar, held against a library that knows more words than we do."""

import inflect
import pytest

from synth.languages.english import plural, with_article
from synth.render import SHAPES, things

COCO = """
person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign,
parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella,
handbag, tie, suitcase, frisbee, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard,
surfboard, tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange,
carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop, mouse,
remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase, teddy bear,
hair drier, toothbrush
"""
OTHERS = """
man, woman, child, fireman, policewoman, human, ottoman, foot, tooth, goose, ox, leaf, wolf, scarf, shelf,
calf, loaf, thief, hoof, roof, cliff, tomato, potato, hero, photo, piano, radio, avocado, flamingo, kangaroo,
box, fox, brush, church, dress, glass, canvas, lens, gas, atlas, iris, octopus, walrus, cactus, hippopotamus,
fly, lady, key, boy, monkey, strawberry, factory, deer, moose, fish, goldfish, aircraft, species, hour, heir,
honest man, unicorn, uniform, university, European, ukulele, utensil, urn, umpire, uncle, one-armed bandit,
eagle, ewe, igloo, oyster, x-ray, house, horseshoe, hotel, egg, ice cream, old shoe, ear, euro, unit, glass of
water, cup of tea, pair of skis, axis, quiz, waltz, bench, torch, stomach, baby, toy, ray, guy, ferry
"""
NAMES = [name for text in (COCO, OTHERS) for name in " ".join(text.split()).split(", ")]
# Where the library is wrong or says what fewer people say.
BETTER = {
    "thief": "thieves", "hoof": "hooves", "flamingo": "flamingos", "waltz": "waltzes", "cactus": "cacti",
}  # fmt: skip
_ORACLE = inflect.engine()


def theirs(name: str) -> str:
    first, of, rest = name.partition(" of ")
    head, _, last = first.rpartition(" ")
    return f"{head} {_ORACLE.plural_noun(last)}".lstrip() + of + rest


@pytest.mark.parametrize("name", [*NAMES, *SHAPES, *sorted(things())])
def test_plurals_are_those_of_the_library(name):
    assert plural(name) == BETTER.get(name, theirs(name))


@pytest.mark.parametrize("phrase", [*NAMES, *SHAPES, *sorted(things()), "orange star", "red star", "ugly duck"])
def test_articles_are_those_of_the_library(phrase):
    assert with_article(phrase) == _ORACLE.a(phrase)


@pytest.mark.parametrize("name", "scissors skis jeans glasses sunglasses trousers pliers headphones".split())
def test_what_is_plural_already_stays(name):
    assert plural(name) == name


def test_capitals_stay():
    assert (plural("Person"), plural("TV"), plural("Wine glass")) == ("People", "TVs", "Wine glasses")


def test_what_is_many_already_stays_and_brackets_are_no_part_of_the_name():
    for many in ("people", "men", "firemen", "Women", "young children", "mice", "feet"):
        assert plural(many) == many
    assert plural("specimen") == "specimens" and plural("bow (weapon)") == "bows (weapon)"
