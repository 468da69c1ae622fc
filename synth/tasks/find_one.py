"""Find the one thing a phrase means: the plain referring question."""

from synth.tasks.base import Draft, phrasing, task

_SEEN = (
    "Find the {p}.", "Point to the {p}.", "Give the box of the {p}.", "Point out the {p} with a box.",
    "Locate the {p}.", "Mark the {p} with a box.", "Find the {p} and give its box.",
)  # fmt: skip
_UNSEEN = ("Locate the {p} and give its box.", "Mark the box of the {p}.", "Point to the {p} with a box.")


@task("find_one", kind="grounding")
def find_one(scene, rng, split):
    return [
        Draft(
            question=phrasing(rng, split, _SEEN, _UNSEEN).format(p=phrase),
            answer=f"The {phrase} is at {{box:0}}.",
            boxes=[obj.box],
            phrase=phrase,
        )
        for phrase, obj in scene.unique_phrases()
    ]
