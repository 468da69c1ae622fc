"""Number games in text alone: they give digits, brackets, commas and points a real use before any box is written."""

import random

from synth.tasks.base import Draft, Step, task

_ORDINALS = ("first", "second", "third", "fourth")


def _some(rng: random.Random, low: int, high: int) -> list[int]:
    return [rng.randrange(101) for _ in range(rng.randint(low, high))]


def _numbers_to_repeat(rng: random.Random) -> list[float]:
    return _some(rng, 3, 4) if rng.random() < 0.6 else [round(rng.random(), 2) for _ in range(rng.randint(2, 4))]


def _with_position(rng: random.Random) -> list[int]:
    xs = _some(rng, 3, 4)
    return [rng.randrange(len(xs)), *xs]


# What each game draws; what it asks and answers is in _tell.
_GAMES = {
    "sum": lambda rng: [rng.randrange(51), rng.randrange(50)],
    "next": lambda rng: [rng.randrange(98)],
    "sort": lambda rng: _some(rng, 3, 4),
    "reverse": lambda rng: _some(rng, 3, 5),
    "repeat": _numbers_to_repeat,
    "largest": lambda rng: _some(rng, 3, 5),
    "smallest": lambda rng: _some(rng, 3, 5),
    "from_percent": lambda rng: [rng.randrange(100)],
    "to_percent": lambda rng: [rng.randrange(100)],
    "position": _with_position,
    "steps": lambda rng: [rng.randrange(31) for _ in range(3)],
}


def _values(game: str, xs: list, say) -> dict:
    """What the wordings of the game are filled in with."""
    if game in ("largest", "smallest"):
        return {"w": say.word(game), "xs": str(xs), "x": {"largest": max, "smallest": min}[game](xs)}
    if game == "position":
        return {"w": say.word(_ORDINALS[xs[0]]), "xs": str(xs[1:]), "x": xs[1:][xs[0]]}
    if game in ("sort", "reverse", "repeat"):
        return {"xs": str(xs), "x": str({"sort": sorted(xs), "reverse": xs[::-1], "repeat": xs}[game])}
    if game in ("from_percent", "to_percent"):
        return {"n": xs[0], "x": f"{xs[0] / 100:.2f}"}
    if game == "next":
        return {"n": xs[0], "x": f"{xs[0] + 1}, {xs[0] + 2}"}
    x, y, z = (*xs, 0)[:3]
    return {"a": x, "b": y, "c": z, "ab": x + y, "abc": x + y + z}


def _propose(scene, rng):
    """Two games a draw. Asked the same in every split, but for the words before it."""
    return [{"game": game, "xs": _GAMES[game](rng)} for game in rng.choices(tuple(_GAMES), k=2)]


@task("numbers", kind="understanding", propose=_propose, needs_image=False)
def numbers(scene, facts, say):
    game = facts["game"]
    values = _values(game, facts["xs"], say)
    steps = [Step(text=say(key, **values)) for key in ("step_one", "step_two")] if game == "steps" else []
    return Draft(
        question=say("question", q=say(f"{game}_asked", **values)), steps=steps, answer=say(f"{game}_answer", **values)
    )
