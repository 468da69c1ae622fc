"""Guessing without the picture: what can be guessed is guessed, what cannot is not."""

import random

import pytest

from synth.quality.blind import Example, blind
from synth.quality.blind_box import blind_box
from synth.quality.gather import BoxExample
from synth.quality.wordings import Wordings

NAMES = ("dog", "red star", "key", "city")


@pytest.fixture(scope="module")
def wordings():
    made = Wordings()
    for name in NAMES:
        made.learn(name)
    made.learn_attributes('{"colour": "blue", "size": "small"}')
    return made


@pytest.mark.parametrize(
    "question, wording, slots",
    [
        ("Is there a red star?", "is there a _ ?", ("red star",)),
        ("How many dogs, keys or cities are there?", "how many _ , _ or _ are there ?", ("dogs", "keys", "cities")),
        ("What is 12 + 3?", "what is _ + _ ?", ("12", "3")),
        ("Is the BLUE dog left?", "is the _ left ?", ("blue dog",)),
        ("Describe the picture.", "describe the picture .", ()),
    ],
)
def test_wording_and_content_are_told_apart(wordings, question, wording, slots):
    parsed = wordings.parse(question)
    assert (parsed.wording, parsed.slots) == (wording, slots)


def examples(wordings, make, n=1200):
    rng = random.Random(0)
    made = [Example(wordings.parse(question), answer) for question, answer in (make(rng) for _ in range(n))]
    return made[: n // 2], made[n // 2 :]


def test_fair_answers_are_not_guessed(wordings):
    tried = blind(*examples(wordings, lambda rng: (f"Is there a {rng.choice(NAMES)}?", rng.choice(("yes", "no")))))
    assert tried.chance == 0.5 and abs(tried.points_over_chance) < 6


def test_an_answer_that_hangs_on_a_word_is_guessed(wordings):
    def make(rng):
        name = rng.choice(NAMES)
        likely = "yes" if name == "dog" else "no"
        return f"Is there a {name} in picture {rng.randrange(10**6)}?", likely if rng.random() < 0.9 else "yes"

    tried = blind(*examples(wordings, make))
    assert tried.naive_bayes > 0.85 and tried.points_over_chance > 30


def test_chance_is_that_of_the_wording(wordings):
    def make(rng):
        if rng.random() < 0.5:
            return f"Is there a {rng.choice(NAMES)}?", rng.choice(("yes", "no"))
        return f"What is the size of the {rng.choice(NAMES)}?", rng.choice(("1", "2", "3", "4"))

    tried = blind(*examples(wordings, make, 4000))
    assert tried.answers == 6 and tried.chance == pytest.approx((0.5 + 0.25) / 2, abs=0.02)
    assert abs(tried.points_over_chance) < 5


def test_which_of_two_things_is_guessed_as_a_place(wordings):
    def make(rng):
        pair = rng.sample(NAMES, 2)
        return f"Which is larger, the {pair[0]} or the {pair[1]}?", pair[0]

    always_first = blind(*examples(wordings, make))
    assert always_first.best == 1.0 and always_first.points_over_chance == 50
    won = blind(*examples(wordings, lambda rng: (lambda p: (f"Which is larger, the {p[0]} or the {p[1]}?", min(p)))(
        rng.sample(NAMES, 2)
    )))  # fmt: skip
    assert won.naive_bayes > 0.9 and won.chance == 0.5


def test_nothing_to_fit_says_so():
    with pytest.raises(ValueError, match="blind"):
        blind([], [])
    with pytest.raises(ValueError, match="blind"):
        blind_box([], [])


def test_blind_boxes_find_what_always_lies_in_one_place_and_nothing_else():
    rng = random.Random(0)
    left, right = (0.1, 0.1, 0.4, 0.5), (0.6, 0.5, 0.9, 0.9)
    placed = [BoxExample(*rng.choice((("dog", left), ("cat", right)))) for _ in range(400)]
    tried = blind_box(placed[:200], placed[200:])
    assert tried.per_phrase == 1.0 and tried.median < 0.7

    def anywhere():
        x, y = rng.random() * 0.8, rng.random() * 0.8
        return BoxExample("dog", (x, y, x + 0.2, y + 0.2))

    scattered = [anywhere() for _ in range(600)]
    assert blind_box(scattered[:300], scattered[300:]).best < 0.15
