"""Count by pointing at one after another, left to right."""

from synth.tasks.base import Draft, Step, task
from synth.tasks.space import left_to_right, names_of


@task(
    "count_by_pointing", kind="grounding", closed=True,
    propose=lambda scene, rng: ({"name": name} for name in names_of(scene)),
)  # fmt: skip
def count_by_pointing(scene, facts, say):
    name = facts["name"]
    found = left_to_right(scene, name)
    if not found:
        return None
    return Draft(
        question=say("question", s=name),
        steps=[Step(text=say("step", p=o.phrase), boxes=[o.box], objects=[o.phrase]) for o in found],
        answer=say("answer", n=len(found)),
        phrase=say("phrase", s=name),
        about=(name,),
    )
