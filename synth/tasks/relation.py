"""Find a thing by where it lies: first the anchor, then what lies on that side of it."""

from synth.tasks.base import SIDES, Draft, Step, only_one_on, phrasing, task

_SEEN = (
    "Find the {n} {side} the {p}.", "Point to the {n} {side} the {p}.", "Give the box of the {n} {side} the {p}.",
    "Locate the {n} {side} the {p}.",
)  # fmt: skip
_UNSEEN = ("Mark the {n} {side} the {p}.", "Point out the {n} {side} the {p} with a box.")


@task("relation", kind="grounding")
def relation(scene, rng, split):
    """The thing on that side, where it is the only one; the star on that side, where the name alone would not do."""
    several = [n for n in dict.fromkeys(o.name for o in scene.objects) if len(scene.named(n)) > 1 or not scene.complete]
    drafts = []
    for phrase, anchor in scene.unique_phrases():
        for side in SIDES:
            for name in (None, *several):
                target = only_one_on(scene, side, anchor, name)
                if target is None:
                    continue
                said = name or "thing"
                drafts.append(
                    Draft(
                        question=phrasing(rng, split, _SEEN, _UNSEEN).format(n=said, side=side, p=phrase),
                        steps=[Step(text=f"Find the {phrase} at {{box:0}}.", boxes=[anchor.box], objects=[phrase])],
                        answer=f"The {target.phrase} is at {{box:0}}.",
                        boxes=[target.box],
                        phrase=f"the {said} {side} the {phrase}",
                    )
                )
    return drafts
