"""How many, in one number, without pointing; of two names a picture, or counts would outnumber all other questions."""

from synth.tasks.base import Draft, phrasing, plural, task

_SEEN = ("How many {p} are there?", "How many {p} do you see?", "Tell me the number of {p}.")
_UNSEEN = ("What is the number of {p}?", "Tell me how many {p} you see.")


@task("count", kind="understanding", closed=True)
def count(scene, rng, split):
    names = dict.fromkeys(o.name for o in scene.objects)
    asked = [(plural(n), len(scene.named(n))) for n in rng.sample(list(names), min(2, len(names)))]
    if scene.complete:
        asked.append(("things", len(scene.objects)))
    absent = [n for n in scene.vocabulary if n not in names]
    if absent and rng.random() < 0.5:
        asked.append((plural(rng.choice(absent)), 0))
    return [
        Draft(question=phrasing(rng, split, _SEEN, _UNSEEN).format(p=p), answer=str(n), about=(p,)) for p, n in asked
    ]
