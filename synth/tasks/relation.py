"""Find a thing by where it lies: first the anchor, then what lies on that side of it."""

from synth.tasks.base import SIDES, Draft, Step, only_one_on, phrasing, task

_SEEN = (
    "Find the thing {side} the {p}.", "Point to what is {side} the {p}.",
    "Give the box of the thing {side} the {p}.", "Locate what is {side} the {p}.",
)  # fmt: skip
_UNSEEN = ("Locate the thing {side} the {p}.", "Give the box of what is {side} the {p}.")


@task("relation", kind="grounding")
def relation(scene, rng, split):
    drafts = []
    for phrase, anchor in scene.unique_phrases():
        for side in SIDES:
            target = only_one_on(scene, side, anchor)
            if target is None:
                continue
            drafts.append(
                Draft(
                    question=phrasing(rng, split, _SEEN, _UNSEEN).format(side=side, p=phrase),
                    steps=[Step(text=f"Find the {phrase} at {{box:0}}.", boxes=[anchor.box], objects=[phrase])],
                    answer=f"The {target.phrase} is at {{box:0}}.",
                    boxes=[target.box],
                    phrase=f"the thing {side} the {phrase}",
                )
            )
    return drafts
