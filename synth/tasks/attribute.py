"""Say something about what was found by a relation: anchor, target, then the answer, as in the paper's figure."""

from synth.tasks.base import Draft, Step, task
from synth.tasks.space import beside, told_beside


@task("attribute", kind="grounding", propose=lambda scene, rng: beside(scene))
def attribute(scene, facts, say):
    if not (told := told_beside(scene, facts)):
        return None
    phrase, anchor, target = told
    side = say.word(facts["side"])
    return Draft(
        question=say("question", side=side, p=phrase),
        steps=[
            Step(text=say("anchor", p=phrase), boxes=[anchor.box], objects=[phrase]),
            Step(text=say("target", side=side), boxes=[target.box], objects=[target.phrase]),
        ],
        answer=say("answer", p=target.phrase),
        phrase=say("phrase", side=side, p=phrase),
    )
