"""Find a thing by where it lies: first the anchor, then what lies on that side of it."""

from synth.tasks.base import Draft, Step, task
from synth.tasks.space import SIDES, names_of, only_one_on, told_beside


def _propose(scene, rng):
    """The thing on that side, where it is the only one; the star on that side, where the name alone would not do."""
    several = [name for name in names_of(scene) if len(scene.named(name)) > 1 or not scene.complete]
    for _, anchor in scene.unique_phrases():
        for side in SIDES:
            for name in (None, *several):
                target = only_one_on(scene, side, anchor, name)
                if target is not None:
                    yield {"target": target.id, "side": side, "anchor": anchor.id, "name": name}


@task("relation", kind="grounding", propose=_propose)
def relation(scene, facts, say):
    if not (told := told_beside(scene, facts)):
        return None
    phrase, anchor, target = told
    name, side = facts["name"] or say.word("thing"), say.word(facts["side"])
    return Draft(
        question=say("question", n=name, side=side, p=phrase),
        steps=[Step(text=say("anchor", p=phrase), boxes=[anchor.box], objects=[phrase])],
        answer=say("answer", p=target.phrase),
        boxes=[target.box],
        phrase=say("phrase", n=name, side=side, p=phrase),
    )
