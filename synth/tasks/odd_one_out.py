"""Find the one thing that differs from all others in one respect, which the question names."""

from collections import Counter

from synth.tasks.base import Draft, Step, task
from synth.tasks.space import has_words, places

_BY = ("kind", "colour", "size")
_FEWEST = 3


def _said(obj, by):
    return obj.name if by == "kind" else obj.attributes.get(by)


def _odd(scene, by):
    """(the odd one, what the others share), or None: every thing must plainly have one of two values."""
    counts = Counter(_said(o, by) for o in scene.objects)
    if not scene.complete or has_words(scene) or len(scene.objects) < _FEWEST or None in counts or len(counts) != 2:
        return None
    (shared, _), (other, alone) = counts.most_common()
    return (next(o for o in scene.objects if _said(o, by) == other), shared) if alone == 1 else None


def _propose(scene, rng):
    return ({"target": odd[0].id, "by": by} for by in _BY if (odd := _odd(scene, by)))


@task("odd_one_out", kind="grounding", propose=_propose)
def odd_one_out(scene, facts, say):
    odd = _odd(scene, facts["by"])
    if not odd or odd[0].id != facts["target"]:
        return None
    target, shared = odd
    others = sorted((o for o in scene.objects if o is not target), key=lambda o: o.centre)
    by = say.word(facts["by"])
    text = say("step", f=by, v=shared, at=places(len(others)))
    return Draft(
        question=say("question", f=by),
        steps=[Step(text=text, boxes=[o.box for o in others], objects=[o.phrase for o in others])],
        answer=say("answer", p=target.phrase), boxes=[target.box], phrase=say("phrase", f=by),
    )  # fmt: skip
