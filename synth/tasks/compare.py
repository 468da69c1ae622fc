"""Compare two things: which is larger, which lies further out, and whether one lies on that side of the other."""

import itertools

from synth.tasks.base import Draft, task
from synth.tasks.space import SIDES, found_by, lies

_FURTHER = {"further left": (0, -1), "further right": (0, 1), "higher": (1, -1), "lower": (1, 1)}
_MARGIN = 0.12  # of the picture's side: nearer than this a person would hesitate
_LARGER = 1.7  # times the area


def pairs(scene, rng):
    """Up to four pairs of things, each in an order drawn anew."""
    found = list(itertools.combinations([obj.id for _, obj in scene.unique_phrases()], 2))
    rng.shuffle(found)
    for pair in found[:4]:
        one, two = rng.sample(pair, 2)
        yield {"one": one, "two": two}


def both(scene, facts):
    """(phrase, thing, other phrase, other thing), or None where a phrase does not mean one alone."""
    one, two = found_by(scene, facts, "one"), found_by(scene, facts, "two")
    return (*one, *two) if one and two else None


@task("larger", kind="understanding", closed=True, propose=pairs)
def larger(scene, facts, say):
    if not (found := both(scene, facts)):
        return None
    p, one, q, two = found
    if max(one.area, two.area) <= _LARGER * min(one.area, two.area):
        return None
    return Draft(question=say("question", p=p, q=q), answer=p if one.area > two.area else q, about=(p, q))


@task(
    "further", kind="understanding", closed=True,
    propose=lambda scene, rng: (pair | {"way": rng.choice(tuple(_FURTHER))} for pair in pairs(scene, rng)),
)  # fmt: skip
def further(scene, facts, say):
    if not (found := both(scene, facts)):
        return None
    p, one, q, two = found
    k, sign = _FURTHER[facts["way"]]
    apart = sign * (one.centre[k] - two.centre[k])
    if abs(apart) <= _MARGIN * (scene.width, scene.height)[k]:
        return None
    return Draft(
        question=say("question", f=say.word(facts["way"]), p=p, q=q), answer=p if apart > 0 else q, about=(p, q)
    )


def _sides(scene, rng):
    """The true side of each pair, or as often the opposite one."""
    for pair in pairs(scene, rng):
        true = [s for s in SIDES if lies(scene.by_id(pair["one"]), s, scene.by_id(pair["two"]))]
        if true:
            opposite = SIDES[SIDES.index(true[0]) ^ 1]
            yield pair | {"side": rng.choice((true[0], opposite))}


@task("side", kind="understanding", closed=True, propose=_sides)
def side(scene, facts, say):
    if not (found := both(scene, facts)):
        return None
    p, one, q, two = found
    opposite = SIDES[SIDES.index(facts["side"]) ^ 1]
    if lies(one, facts["side"], two) == lies(one, opposite, two):
        return None
    answer = say.word("yes" if lies(one, facts["side"], two) else "no")
    word = say.word(facts["side"])
    return Draft(question=say("question", p=p, s=word, q=q), answer=answer, about=(f"{p} {word}", f"{word} {q}"))
