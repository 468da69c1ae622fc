"""Ask for a thing that is not there: the honest answer holds no box."""

from synth.tasks.base import Draft, task
from synth.tasks.space import is_missing, missing


def _propose(scene, rng):
    phrase = missing(scene, rng)
    return [{"absent": phrase}] if phrase else []


@task("absent", kind="grounding", propose=_propose)
def absent(scene, facts, say):
    phrase = facts["absent"]
    if not is_missing(scene, phrase):
        return None
    return Draft(question=say("question", p=phrase), answer=say("answer", p=phrase), phrase=phrase)
