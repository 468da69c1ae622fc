"""Find the one thing a phrase means: the plain referring question."""

from synth.tasks.base import Draft, task
from synth.tasks.space import found_by


def _propose(scene, rng):
    return ({"target": obj.id} for _, obj in scene.unique_phrases())


@task("find_one", kind="grounding", propose=_propose)
def find_one(scene, facts, say):
    if not (found := found_by(scene, facts)):
        return None
    phrase, obj = found
    return Draft(question=say("question", p=phrase), answer=say("answer", p=phrase), boxes=[obj.box], phrase=phrase)
