"""Describe the whole picture: everything in it, left to right."""

from synth.scene import Obj, Scene
from synth.tasks.base import Draft, task

_MARGIN = 0.05  # of the width: asked only where the order from left to right is plain


def in_order(scene: Scene) -> list[Obj]:
    """Everything from left to right; nothing where that order is not plain or more may be there than is known."""
    found = sorted(scene.objects, key=lambda o: o.centre[0])
    near = any(q.centre[0] - p.centre[0] < _MARGIN * scene.width for p, q in zip(found, found[1:], strict=False))
    return found if scene.complete and not near else []


@task("describe", kind="understanding", propose=lambda scene, rng: [{}])
def describe(scene, facts, say):
    found = in_order(scene)
    return Draft(question=say("question"), answer=say("answer", things=[o.phrase for o in found])) if found else None
