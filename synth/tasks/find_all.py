"""Find every thing of one name, left to right."""

from synth.tasks.base import Draft, phrasing, plural, task

_SEEN = (
    "Find all {p}.", "Point to every {s}.", "Give the boxes of all {p}.", "Locate all {p}.",
    "Mark every {s} with a box.", "Find every {s} and give its box.",
)  # fmt: skip
_UNSEEN = ("Locate every {s} and give its box.", "Mark all {p} with a box.", "Give the box of every {s}.")


@task("find_all", kind="grounding")
def find_all(scene, rng, split):
    drafts = []
    for name in dict.fromkeys(o.name for o in scene.objects):
        found = sorted(scene.named(name), key=lambda o: o.centre)
        at = " ".join(f"{{box:{k}}}" for k in range(len(found)))
        drafts.append(
            Draft(
                question=phrasing(rng, split, _SEEN, _UNSEEN).format(p=plural(name), s=name),
                answer=f"Found {len(found)}: {at}.",
                boxes=[o.box for o in found],
                phrase=plural(name),
            )
        )
    return drafts
