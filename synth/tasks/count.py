"""How many, in one number, without pointing; of two names a picture, or counts would outnumber all other questions."""

from synth.tasks.base import Draft, task
from synth.tasks.space import has_words, names_of


def _propose(scene, rng):
    names = names_of(scene)
    yield from ({"name": name} for name in rng.sample(names, min(2, len(names))))
    if scene.complete:
        yield {"name": None}  # all things
    absent = [name for name in scene.vocabulary if name not in names]
    if absent and rng.random() < 0.5:
        yield {"name": rng.choice(absent)}


@task("count", kind="understanding", closed=True, propose=_propose)
def count(scene, facts, say):
    name = facts["name"]
    found = scene.objects if name is None else [o for o in scene.objects if o.name == name]
    if not scene.complete or has_words(scene) if name is None else not scene.exhaustive:
        return None
    if not (found or name is None or name in scene.vocabulary):
        return None
    asked = name or say.word("thing")
    return Draft(question=say("question", s=asked), answer=say("answer", n=len(found)), about=(asked,))
