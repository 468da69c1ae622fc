"""Count by pointing at one after another, left to right."""

from synth.tasks.base import Draft, Step, phrasing, plural, task

_SEEN = ("Count the {p} by pointing.", "Point at each {s} and count.", "Find and count the {p}.")
_UNSEEN = ("Find each {s} and count.", "Count by pointing at each {s}.")


@task("count_by_pointing", kind="grounding", closed=True)
def count_by_pointing(scene, rng, split):
    drafts = []
    for name in dict.fromkeys(o.name for o in scene.objects):
        found = sorted(scene.named(name), key=lambda o: o.centre)
        drafts.append(
            Draft(
                question=phrasing(rng, split, _SEEN, _UNSEEN).format(p=plural(name), s=name),
                steps=[Step(text=f"The {o.phrase} at {{box:0}}.", boxes=[o.box], objects=[o.phrase]) for o in found],
                answer=f"The count is {len(found)}.",
                phrase=plural(name),
                about=(name,),
            )
        )
    return drafts
