"""Find a thing by its place in a row: "the second cat from the left", pointing at those that come before it."""

from synth.tasks.base import Draft, Step, task
from synth.tasks.space import every, names_of

ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
_FROM = {"from the left": (0, 1), "from the right": (0, -1), "from the top": (1, 1), "from the bottom": (1, -1)}
_MARGIN = 0.06  # of the picture's side between one middle and the next


def _row(scene, name, way):
    """The things in the order counted, or nothing where it is not plain to see."""
    k, sign = _FROM[way]
    found = sorted(every(scene, name), key=lambda o: o.centre[k])
    for one, two in zip(found, found[1:], strict=False):
        apart = two.centre[k] - one.centre[k] > _MARGIN * (scene.width, scene.height)[k]
        if not (apart and one.box[k] < two.box[k] and one.box[k + 2] < two.box[k + 2]):
            return []
    return found[::sign] if 2 <= len(found) <= len(ORDINALS) else []


def _propose(scene, rng):
    """One question for every name that is there twice or more, and one that counts all things."""
    for name in [*names_of(scene), None]:
        ways = [way for way in _FROM if _row(scene, name, way)]
        if ways:
            way = rng.choice(ways)
            row = _row(scene, name, way)
            rank = rng.randrange(len(row))
            yield {"target": row[rank].id, "name": name, "from": way, "rank": rank + 1}


@task("ordinal", kind="grounding", propose=_propose)
def ordinal(scene, facts, say):
    row, rank = _row(scene, facts["name"], facts["from"]), facts["rank"]
    if not 1 <= rank <= len(row) or row[rank - 1].id != facts["target"]:
        return None
    name = facts["name"] or say.word("thing")
    before, target = row[: rank - 1], row[rank - 1]
    phrase = say("phrase", o=say.word(ORDINALS[rank - 1]), n=name, f=say.word(facts["from"]))
    return Draft(
        question=say("question", p=phrase),
        steps=[
            Step(text=say("step", o=say.word(ORDINALS[k]), n=name), boxes=[o.box], objects=[o.phrase])
            for k, o in enumerate(before)
        ],
        answer=say("answer", p=phrase),
        boxes=[target.box],
        phrase=phrase,
    )
