"""Whether a thing is there; as often no as yes, and no is often a near miss."""

from synth.tasks.base import Draft, task
from synth.tasks.space import is_missing, missing


def _propose(scene, rng):
    if not scene.objects:
        return
    there, absent = rng.choice(scene.objects), missing(scene, rng)
    yield {"asked": there.phrase if rng.random() < 0.7 else there.name}
    if absent:
        yield {"asked": absent}


@task("exists", kind="understanding", closed=True, propose=_propose)
def exists(scene, facts, say):
    phrase = facts["asked"]
    there = bool(scene.named(phrase))
    if not there and not is_missing(scene, phrase):
        return None
    return Draft(question=say("question", p=phrase), answer=say.word("yes" if there else "no"), about=(phrase,))
