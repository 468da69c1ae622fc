"""Describe the whole picture: everything in it, left to right."""

from synth.tasks.base import Draft, task

_MARGIN = 0.05  # of the width: asked only where the order from left to right is plain


@task("describe", kind="understanding", propose=lambda scene, rng: [{}])
def describe(scene, facts, say):
    found = sorted(scene.objects, key=lambda o: o.centre[0])
    if (
        not scene.complete
        or not found
        or any(q.centre[0] - p.centre[0] < _MARGIN * scene.width for p, q in zip(found, found[1:], strict=False))
    ):
        return None
    return Draft(question=say("question"), answer=say("answer", things=[o.phrase for o in found]))
