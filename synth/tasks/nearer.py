"""Which thing is nearer to the camera, and which is in front of which, where the source knows how far things are."""

from synth.tasks.base import Draft, task
from synth.tasks.compare import both, pairs

_MARGIN = 1.25  # times as far


def _depths(scene, facts):
    """What `both` gives, where one is plainly nearer."""
    found = both(scene, facts)
    if not found or not (found[1].depth and found[3].depth):
        return None
    near, far = sorted((found[1].depth, found[3].depth))
    return found if 0 < near and far > _MARGIN * near else None


@task("nearer", kind="understanding", closed=True, propose=pairs)
def nearer(scene, facts, say):
    if not (found := _depths(scene, facts)):
        return None
    p, one, q, two = found
    return Draft(question=say("question", p=p, q=q), answer=p if one.depth < two.depth else q, about=(p, q))


@task("in_front", kind="understanding", closed=True, propose=pairs)
def in_front(scene, facts, say):
    """Of things whose boxes meet in the picture: only then a person would say it."""
    if not (found := _depths(scene, facts)):
        return None
    p, one, q, two = found
    if any(min(one.box[k + 2], two.box[k + 2]) <= max(one.box[k], two.box[k]) for k in (0, 1)):
        return None
    answer = say.word("yes" if one.depth < two.depth else "no")
    return Draft(question=say("question", p=p, q=q), answer=answer, about=(p, q))
