"""From a region to words and back: the question shows a box, or words that somebody wrote about one place."""

from synth.scene import iou
from synth.tasks.base import Draft, task

_ALIKE = 0.5  # IoU from which two boxes are taken for one place


@task("name_region", kind="grounding", propose=lambda scene, rng: ({"target": o.id} for o in scene.objects))
def name_region(scene, facts, say):
    """Of boxes that no other thing shares."""
    obj = scene.by_id(facts["target"])
    if obj is None or any(iou(obj.box, o.box) >= _ALIKE for o in scene.objects if o is not obj):
        return None
    return Draft(question=say("question"), answer=say("answer", p=obj.phrase), question_boxes=[obj.box])


def _each(unique):
    return lambda scene, rng: ({"region": k} for k, region in enumerate(scene.regions) if region.unique is unique)


def _written(scene, facts, say, *, unique=None):
    """The region and its words, without the full stop; None where it is of the other kind or in another script."""
    regions, k = scene.regions, facts["region"]
    if not 0 <= k < len(regions) or unique not in (None, regions[k].unique):
        return None
    text = _plain(regions[k])
    return (regions[k], text) if text and say.pack.writes(text) else None


def _plain(region) -> str:
    return " ".join(region.text.split()).rstrip(".。 ")


@task("describe_region", kind="grounding", propose=_each(False))
def describe_region(scene, facts, say):
    """Only with words that describe: a referring expression tells a thing from others, and need not say what it is."""
    found = _written(scene, facts, say, unique=False)
    if not found:
        return None
    return Draft(question=say("question"), answer=say("answer", t=found[1]), question_boxes=[found[0].box])


@task("find_region", kind="grounding", propose=_each(False))
def find_region(scene, facts, say):
    """Of words that no second place has: others may fit them too, so that *a* place is asked for."""
    found = _written(scene, facts, say, unique=False)
    if not found or any(_plain(r) == found[1] and r is not found[0] for r in scene.regions):
        return None
    region, text = found
    return Draft(question=say("question", t=text), answer=say("answer"), boxes=[region.box], phrase=text)


@task("refer", kind="grounding", propose=_each(True))
def refer(scene, facts, say):
    """A referring expression; one that was written of two places tells nothing."""
    found = _written(scene, facts, say, unique=True)
    if not found:
        return None
    region, text = found
    if any(_plain(r) == text and iou(r.box, region.box) < _ALIKE for r in scene.regions):
        return None
    return Draft(question=say("question", t=text), answer=say("answer"), boxes=[region.box], phrase=text)
