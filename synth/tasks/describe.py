"""Describe the whole picture: everything in it, left to right."""

from synth.tasks.base import Draft, a, listing, phrasing, task

_SEEN = ("Describe the picture.", "Describe the picture from left to right.", "Tell me what is in the picture.")
_UNSEEN = ("Describe from left to right.", "Tell me what you see in the picture.")
_MARGIN = 0.05  # of the width: asked only where the order from left to right is plain


@task("describe", kind="understanding")
def describe(scene, rng, split):
    found = sorted(scene.objects, key=lambda o: o.centre[0])
    if (
        not scene.complete
        or not found
        or any(q.centre[0] - p.centre[0] < _MARGIN * scene.width for p, q in zip(found, found[1:], strict=False))
    ):
        return []
    return [Draft(question=phrasing(rng, split, _SEEN, _UNSEEN), answer=listing([a(o.phrase) for o in found]))]
