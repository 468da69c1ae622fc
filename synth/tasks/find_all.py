"""Find every thing of one name, left to right: detection in words."""

from synth.tasks.base import Draft, task
from synth.tasks.space import left_to_right, names_of, places


@task("find_all", kind="grounding", propose=lambda scene, rng: ({"name": name} for name in names_of(scene)))
def find_all(scene, facts, say):
    name = facts["name"]
    found = left_to_right(scene, name)
    if not found:
        return None
    return Draft(
        question=say("question", s=name),
        answer=say("answer", n=len(found), s=name, at=places(len(found))),
        boxes=[o.box for o in found],
        phrase=say("phrase", s=name),
    )
