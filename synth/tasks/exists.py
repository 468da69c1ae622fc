"""Whether a thing is there; as often no as yes, and no is often a near miss."""

from synth.tasks.base import Draft, a, missing, phrasing, task

_SEEN = ("Is there {p}?", "Do you see {p}?", "Is there {p} in the picture?", "Tell me if there is {p}.")
_UNSEEN = ("Do you see {p} in the picture?", "Tell me if you see {p}.")


@task("exists", kind="understanding", closed=True)
def exists(scene, rng, split):
    if not scene.objects:
        return []
    there, absent = rng.choice(scene.objects), missing(scene, rng)
    asked = [(there.phrase if rng.random() < 0.7 else there.name, "yes")] + ([(absent, "no")] if absent else [])
    return [
        Draft(question=phrasing(rng, split, _SEEN, _UNSEEN).format(p=a(p)), answer=yes, about=(p,)) for p, yes in asked
    ]
