"""Ask for the mask of what `find_one`, `find_all`, `relation` and `refer` ask the box of; only with ``masks=true``.

What is asked and how it is checked is theirs; the language pack words it with `{mask:0}` in place of `{box:0}`.
"""

from synth.tasks.base import TASKS, Draft, task
from synth.tasks.find_one import find_one
from synth.tasks.regions import refer
from synth.tasks.relation import relation
from synth.tasks.space import is_missing, left_to_right, names_of, places

for _name, _tell in (("one", find_one), ("relation", relation), ("refer", refer)):
    task(f"segment_{_name}", kind="grounding", propose=TASKS[_tell.__name__].propose, masks=True)(_tell)


def _propose(scene, rng):
    """Every name in the picture; and one that it lacks, so that not every answer has a mask."""
    yield from ({"name": name} for name in names_of(scene))
    lacking = [name for name in scene.vocabulary if is_missing(scene, name)]
    if lacking:
        yield {"absent": rng.choice(lacking)}


@task("segment_all", kind="grounding", propose=_propose, masks=True)
def segment_all(scene, facts, say):
    if "absent" in facts:
        name = facts["absent"]
        if not is_missing(scene, name):
            return None
        return Draft(question=say("question", s=name), answer=say("none", s=name), phrase=say("phrase", s=name))
    name = facts["name"]
    found = left_to_right(scene, name)
    if not found:
        return None
    return Draft(
        question=say("question", s=name),
        answer=say("answer", n=len(found), s=name, at=places(len(found), of="mask")),
        boxes=[o.box for o in found],
        phrase=say("phrase", s=name),
    )
