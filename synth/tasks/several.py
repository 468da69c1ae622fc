"""Questions about two pictures, called the first and the second: ``scenes`` is a pair."""

from synth.scene import iou
from synth.tasks.base import Draft, Step, task
from synth.tasks.space import is_missing, names_of

_ORDER = ("first", "second")
_ALIKE = 0.5  # IoU from which two boxes are taken for one place
_ASKED = 2  # things of each picture that are asked for, at most


def number_of(scene, name):
    """How many things of a name there are; None where some may be missing, or the ground may show more of them."""
    if name not in scene.vocabulary:
        return None
    found = len(scene.by_name.get(name, ()))
    return found if scene.exhaustive or not found else None


def _only_here(scenes, k, obj):
    """The phrase that means the thing alone in its picture and nothing at all in the other; nothing without one."""
    if obj.name not in scenes[k].vocabulary:  # its ground may show one too
        return ""
    phrase, other = scenes[k].phrase_for(obj), scenes[1 - k]
    lacks = is_missing(other, obj.name) or (phrase != obj.name and is_missing(other, phrase))
    return phrase if lacks else ""


def _each_side(scenes, rng):
    """As many things of one picture as of the other, so that neither is the likelier answer."""
    sides = [[o.id for o in scene.objects if _only_here(scenes, k, o)] for k, scene in enumerate(scenes)]
    few = min(_ASKED, *map(len, sides))
    if few:
        yield from ({"target": id, "picture": k} for k, ids in enumerate(sides) for id in rng.sample(ids, few))
    elif any(sides):
        k = int(not sides[0])
        yield {"target": rng.choice(sides[k]), "picture": k}


@task("which_picture", kind="grounding", pictures=2, propose=_each_side)
def which_picture(scenes, facts, say):
    """The thing that one of the pictures holds, and the other certainly does not."""
    k = facts["picture"]
    obj = scenes[k].by_id(facts["target"]) if k in (0, 1) else None
    phrase = _only_here(scenes, k, obj) if obj else ""
    if not phrase:
        return None
    steps = []
    for n, order in enumerate(map(say.word, _ORDER)):
        if n == k:
            steps.append(Step(text=say("some", o=order, p=phrase), boxes=[obj.box], objects=[obj.phrase], picture=k))
        else:
            steps.append(Step(text=say("none", o=order, p=phrase), picture=n))
    return Draft(
        question=say("question", p=phrase), steps=steps, boxes=[obj.box], picture=k, phrase=phrase,
        answer=say("answer", p=phrase, o=say.word(_ORDER[k])),
    )  # fmt: skip


def _pairs(scenes, rng):
    """Things of the first picture with the only one of the same name in the second."""
    found = [
        {"target": o.id, "other": same[0].id}
        for o in scenes[0].objects if len(same := scenes[1].by_name.get(o.name, ())) == 1
    ]  # fmt: skip
    return rng.sample(found, min(_ASKED, len(found)))


@task("same_in_both", kind="grounding", pictures=2, propose=_pairs)
def same_in_both(scenes, facts, say):
    """From a box in the first picture, in which no other thing lies, to the only such thing in the second."""
    first, second = scenes
    obj, other = first.by_id(facts["target"]), second.by_id(facts["other"])
    if obj is None or other is None or obj.name != other.name or number_of(second, obj.name) != 1:
        return None
    if any(iou(obj.box, o.box) >= _ALIKE for o in first.objects if o is not obj):
        return None
    shown = Step(text=say("shown", n=obj.name), boxes=[obj.box], objects=[obj.phrase])
    return Draft(
        question=say("question"), question_boxes=[obj.box], steps=[shown], answer=say("answer", n=obj.name),
        boxes=[other.box], picture=1, phrase=say("phrase", n=obj.name),
    )  # fmt: skip


def _by_answer(scenes, rng):
    """A name for each answer that there is one for: more in the first, more in the second, equally many."""
    names = list(dict.fromkeys(name for scene in scenes for name in names_of(scene)))
    answers = {}
    for name in names:
        n, m = (number_of(scene, name) for scene in scenes)
        if n is not None and m is not None:
            answers.setdefault((n > m) - (n < m), []).append(name)
    return ({"name": rng.choice(found)} for _, found in sorted(answers.items()))


@task("more_in", kind="understanding", closed=True, pictures=2, propose=_by_answer)
def more_in(scenes, facts, say):
    name = facts["name"]
    n, m = (number_of(scene, name) for scene in scenes)
    if n is None or m is None or n == m == 0:
        return None
    answer = say.word("equally many" if n == m else _ORDER[n < m])
    return Draft(question=say("question", s=name), answer=answer, about=(name,))


@task(
    "difference", kind="understanding", pictures=2,
    propose=lambda scenes, rng: ({"picture": k} for k in rng.sample((0, 1), 2)),
)  # fmt: skip
def difference(scenes, facts, say):
    """What kinds of things are in one picture and not in the other: only where the one is known whole.

    Things of one kind must not differ in colour between the two: some would name them too.
    """
    k = facts["picture"]
    here, other = scenes[k], scenes[1 - k]
    things = sorted(here.objects, key=lambda o: o.centre)
    alone = dict.fromkeys(o.name for o in things if not other.named(o.name))
    if any(o.name not in alone and not other.named(o.phrase) for o in things):
        return None
    if not alone or not here.complete or any(not is_missing(other, name) for name in alone):
        return None
    orders = {key: say.word(_ORDER[n]) for key, n in (("o", k), ("q", 1 - k))}
    return Draft(question=say("question", **orders), answer=say("answer", things=list(alone)))
