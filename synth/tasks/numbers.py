"""Number games in text alone: they give digits, brackets, commas and points a real use before any box is written."""

import random

from synth.tasks.base import Draft, Step, phrasing, task


def _some(rng: random.Random, low: int, high: int) -> list[int]:
    return [rng.randrange(101) for _ in range(rng.randint(low, high))]


def _sum(rng: random.Random) -> Draft:
    x, y = rng.randrange(51), rng.randrange(50)
    return Draft(question=f"What is {x} + {y}?", answer=str(x + y))


def _next(rng: random.Random) -> Draft:
    x = rng.randrange(98)
    return Draft(question=f"Count on from {x}.", answer=f"{x + 1}, {x + 2}")


def _sort(rng: random.Random) -> Draft:
    xs = _some(rng, 3, 4)
    return Draft(question=f"Sort {xs}.", answer=str(sorted(xs)))


def _reverse(rng: random.Random) -> Draft:
    xs = _some(rng, 3, 5)
    return Draft(question=f"Reverse {xs}.", answer=str(xs[::-1]))


def _repeat(rng: random.Random) -> Draft:
    xs = _some(rng, 3, 4) if rng.random() < 0.6 else [round(rng.random(), 2) for _ in range(rng.randint(2, 4))]
    return Draft(question=f"Repeat {xs}.", answer=str(xs))


def _extreme(rng: random.Random) -> Draft:
    xs = _some(rng, 3, 5)
    word, best = rng.choice((("largest", max(xs)), ("smallest", min(xs))))
    return Draft(question=f"Find the {word} number in {xs}.", answer=f"The {word} number is {best}.")


def _percent(rng: random.Random) -> Draft:
    x = rng.randrange(100)
    if rng.random() < 0.5:
        return Draft(question=f"Write {x} percent as a number.", answer=f"{x / 100:.2f}")
    return Draft(question=f"Write {x / 100:.2f} in percent.", answer=f"{x} percent")


def _position(rng: random.Random) -> Draft:
    xs = _some(rng, 3, 4)
    k = rng.randrange(len(xs))
    word = ("first", "second", "third", "fourth")[k]
    return Draft(question=f"Point out the {word} number in {xs}.", answer=f"The {word} number is {xs[k]}.")


def _steps(rng: random.Random) -> Draft:
    x, y, z = (rng.randrange(31) for _ in range(3))
    return Draft(
        question=f"What is {x} + {y} + {z}?",
        steps=[Step(text=f"Find {x} + {y} = {x + y}."), Step(text=f"Find {x + y} + {z} = {x + y + z}.")],
        answer=f"The number is {x + y + z}.",
    )


_GAMES = (_sum, _next, _sort, _reverse, _repeat, _extreme, _percent, _position, _steps)


@task("numbers", kind="understanding", needs_image=False)
def numbers(scene, rng, split):
    """Two games a draw. Asked the same in every split, but for the words before it."""
    drafts = [rng.choice(_GAMES)(rng) for _ in range(2)]
    seen, unseen = ("{q}", "{q}", "Task: {q}", "Now: {q}"), ("Do this: {q}",)
    for draft in drafts:
        draft.question = phrasing(rng, split, seen, unseen).format(q=draft.question)
    return drafts
