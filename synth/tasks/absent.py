"""Ask for a thing that is not there: the honest answer holds no box."""

from synth.tasks.base import Draft, missing, phrasing, task
from synth.tasks.find_one import _SEEN, _UNSEEN


@task("absent", kind="grounding")
def absent(scene, rng, split):
    phrase = missing(scene, rng)
    if not phrase:
        return []
    return [
        Draft(
            question=phrasing(rng, split, _SEEN, _UNSEEN).format(p=phrase),
            answer=f"There is no {phrase}.",
            phrase=phrase,
        )
    ]
