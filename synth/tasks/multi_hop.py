"""Go from thing to thing, two or three hops: start at the cat, then the thing left of it, then the thing above that."""

from synth.tasks.base import Draft, Step, task
from synth.tasks.space import SIDES, every, found_by, names_of, only_one_on

_A_PICTURE = 3  # questions at most, each ending at another thing
_SHORTEST, _LONGEST = 2, 3
_STOP = 0.4  # how often a walk ends after two hops although there is a third


def _onward(scene, rng, met):
    """Every hop from the last thing met to one that was not met yet, in an order drawn anew."""
    hops = []
    several = [name for name in names_of(scene) if len(every(scene, name)) > 1 or not scene.complete]
    for name in [None, *several]:
        for side in SIDES:
            thing = only_one_on(scene, side, met[-1], name)
            if thing is not None and thing not in met:
                hops.append(({"side": side, "name": name, "to": thing.id}, thing))
    rng.shuffle(hops)
    return hops


def _walk(scene, rng, anchor):
    """The hops of a walk of two or three from the anchor, or nothing."""
    for first, one in _onward(scene, rng, [anchor]):
        for second, two in _onward(scene, rng, [anchor, one])[:1]:
            third = [] if rng.random() < _STOP else [hop for hop, _ in _onward(scene, rng, [anchor, one, two])]
            return [first, second, *third[:1]]
    return []


def _propose(scene, rng):
    anchors = [obj for _, obj in scene.unique_phrases()]
    rng.shuffle(anchors)
    ends = set()
    for anchor in anchors:
        hops = _walk(scene, rng, anchor)
        if hops and len(ends) < _A_PICTURE and hops[-1]["to"] not in ends:
            ends.add(hops[-1]["to"])
            yield {"anchor": anchor.id, "hops": hops}


def _led(scene, facts):
    """(phrase of the anchor, all things on the way with the anchor first), or None where the way is not plain."""
    if not (found := found_by(scene, facts, "anchor")):
        return None
    met = [found[1]]
    for hop in facts["hops"]:
        thing = only_one_on(scene, hop["side"], met[-1], hop["name"])
        if thing is None or thing.id != hop["to"] or thing in met:
            return None
        met.append(thing)
    return (found[0], met) if _SHORTEST <= len(facts["hops"]) <= _LONGEST else None


@task("multi_hop", kind="grounding", propose=_propose)
def multi_hop(scene, facts, say):
    if not (led := _led(scene, facts)):
        return None
    phrase, (anchor, *between, target) = led
    hops = [
        {"n": hop["name"] or say.word("thing"), "side": say.word(hop["side"])} for hop in facts["hops"]
    ]  # fmt: skip
    way = say("then").join(say("next" if k else "first", **hop) for k, hop in enumerate(hops))
    steps = [Step(text=say("anchor", p=phrase), boxes=[anchor.box], objects=[phrase])]
    for k, (hop, thing) in enumerate(zip(hops, between, strict=False)):
        text = say("second_step" if k else "first_step", **hop, p=thing.phrase)
        steps.append(Step(text=text, boxes=[thing.box], objects=[thing.phrase]))
    return Draft(
        question=say("question", p=phrase, way=way), steps=steps, answer=say("answer", p=target.phrase),
        boxes=[target.box], phrase=say("phrase", p=phrase, way=way),
    )  # fmt: skip
