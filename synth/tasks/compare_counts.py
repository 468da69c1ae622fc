"""Whether there are more of one thing than of another, pointing at all of both first."""

import itertools
from collections import Counter

from synth.tasks.base import Draft, Step, task
from synth.tasks.space import every, names_of, places

_EQUAL = 0.25  # how often a pair of equal numbers is asked about: pictures hold far more of them than of others
_A_PICTURE = 2  # questions at most


def _propose(scene, rng):
    """Pairs of names, one of which may be absent; in an order drawn anew, so that no is as likely as yes."""
    names = names_of(scene)
    if not names:
        return
    pairs = list(itertools.combinations(names, 2))
    absent = [name for name in scene.vocabulary if name not in names]
    if absent:
        pairs.append((rng.choice(names), rng.choice(absent)))
    rng.shuffle(pairs)
    counts = Counter(o.name for o in scene.objects)
    told = 0
    for pair in pairs:
        one, two = rng.sample(pair, 2)
        if counts[one] != counts[two] or rng.random() < _EQUAL:
            yield {"name": one, "other": two}
            told += 1
            if told == _A_PICTURE:
                return


@task("compare_counts", kind="grounding", propose=_propose)
def compare_counts(scene, facts, say):
    names = facts["name"], facts["other"]
    found = [sorted(every(scene, name), key=lambda o: o.centre) for name in names]
    if not any(found) or names[0] == names[1]:
        return None
    if any(not things and name not in scene.vocabulary for name, things in zip(names, found, strict=True)):
        return None
    steps = [
        Step(
            text=say("some", s=name, n=len(things), at=places(len(things))) if things else say("none", s=name),
            boxes=[o.box for o in things], objects=[o.phrase for o in things],
        )
        for name, things in zip(names, found, strict=True)
    ]  # fmt: skip
    n, m = map(len, found)
    return Draft(
        question=say("question", s=names[0], t=names[1]), steps=steps,
        answer=say("more" if n > m else "not_more", s=names[0], t=names[1], n=n, m=m),
        phrase=say("phrase", s=names[0], t=names[1]),
    )  # fmt: skip
