"""Say something about what was found by a relation: anchor, target, then the answer, as in the paper's figure."""

from synth.tasks.base import SIDES, Draft, Step, a, only_one_on, phrasing, task

_SEEN = ("Point out and name the thing {side} the {p}.", "Find and name what is {side} the {p}.")
_UNSEEN = ("Point to and name the thing {side} the {p}.",)


@task("attribute", kind="grounding")
def attribute(scene, rng, split):
    drafts = []
    for phrase, anchor in scene.unique_phrases():
        for side in SIDES:
            target = only_one_on(scene, side, anchor)
            if target is None:
                continue
            drafts.append(
                Draft(
                    question=phrasing(rng, split, _SEEN, _UNSEEN).format(side=side, p=phrase),
                    steps=[
                        Step(text=f"Find the {phrase} at {{box:0}}.", boxes=[anchor.box], objects=[phrase]),
                        Step(text=f"The thing {side} it is at {{box:0}}.", boxes=[target.box], objects=[target.phrase]),
                    ],
                    answer=f"It is {a(target.phrase)}.",
                    phrase=f"the thing {side} the {phrase}",
                )
            )
    return drafts
