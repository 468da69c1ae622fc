"""Find the thing that is most of something: the largest star, the widest thing, the cat closest to the key."""

import math

from synth.tasks.base import Draft, Step, task
from synth.tasks.space import every, found_by, names_of


def _depth(obj) -> float:
    return obj.depth if obj.depth and obj.depth > 0 else math.nan


# Measure, sign, and how many times the runner-up's it must be (its inverse for the least).
_WAYS = {
    "largest": (lambda o: o.area, 1, 1.7), "smallest": (lambda o: o.area, -1, 1.7),
    "widest": (lambda o: o.width, 1, 1.3), "tallest": (lambda o: o.height, 1, 1.3),
    "nearest": (_depth, -1, 1.25), "farthest": (_depth, 1, 1.25),
}  # fmt: skip
_ANY_NAME = 1.5  # more, where a heart is measured against a ladder
_FROM_ANCHOR = {"closest to": 1, "farthest from": -1}
_MARGIN = 0.1  # of the longer side: how much nearer than the next
_A_PICTURE = 3  # questions at most


def _gap(one, other) -> float:
    """Pixels between two boxes; 0 where they meet."""
    return math.hypot(*(max(0.0, one.box[k] - other.box[k + 2], other.box[k] - one.box[k + 2]) for k in (0, 1)))


def _winner(scene, facts):
    """The thing that is most so by a margin, among two or more."""
    found = every(scene, facts["name"])
    if facts["way"] in _FROM_ANCHOR:
        return _by_distance(scene, facts, found)
    measure, sign, margin = _WAYS[facts["way"]]
    if len(found) < 2:
        return None
    margin *= _ANY_NAME if facts["name"] is None else 1
    first, second = sorted(found, key=measure, reverse=sign > 0)[:2]
    more, less = (measure(first), measure(second))[::sign]
    known = all(not math.isnan(measure(o)) for o in found)
    return first if known and more > margin * less else None


def _by_distance(scene, facts, found):
    anchor = scene.by_id(facts["anchor"])
    found = [o for o in found if o is not anchor]
    if anchor is None or len(found) < 2:
        return None
    sign = _FROM_ANCHOR[facts["way"]]
    first, *rest = sorted(found, key=lambda o: sign * math.dist(o.centre, anchor.centre))
    margin = _MARGIN * max(scene.width, scene.height)
    # Between the middles and between the edges: a person may look at either.
    plain = all(
        sign * (math.dist(o.centre, anchor.centre) - math.dist(first.centre, anchor.centre)) > margin
        and sign * (_gap(o, anchor) - _gap(first, anchor)) >= 0
        for o in rest
    )
    return first if plain else None


def _propose(scene, rng):
    asked = [{"name": name, "way": way} for name in [*names_of(scene), None] for way in _WAYS]
    asked += [
        {"name": name, "way": way, "anchor": anchor.id}
        for _, anchor in scene.unique_phrases() for name in [*names_of(scene), None] for way in _FROM_ANCHOR
    ]  # fmt: skip
    rng.shuffle(asked)
    told = set()  # each way once, or distances would outnumber all else
    for facts in asked:
        if len(told) < _A_PICTURE and facts["way"] not in told and (winner := _winner(scene, facts)):
            told.add(facts["way"])
            yield {"target": winner.id, **facts}


@task("superlative", kind="grounding", propose=_propose)
def superlative(scene, facts, say):
    target = _winner(scene, facts)
    if target is None or target.id != facts["target"]:
        return None
    name, way, steps, anchor = facts["name"] or say.word("thing"), facts["way"], [], ""
    if way in _FROM_ANCHOR:
        if not (found := found_by(scene, facts, "anchor")):
            return None
        anchor, thing = found
        steps = [Step(text=say("anchor", q=anchor), boxes=[thing.box], objects=[anchor])]
    phrase = say(way.replace(" ", "_"), n=name, q=anchor)
    return Draft(
        question=say("question", p=phrase), steps=steps, answer=say("answer", p=phrase), boxes=[target.box],
        phrase=phrase,
    )  # fmt: skip
