"""From a region to words and back: the question shows a box, or words that somebody wrote about one place."""

from synth.scene import iou
from synth.tasks.base import Draft, task

_ALIKE = 0.5  # IoU from which two boxes are taken for one place


def _things(scene, rng):
    return ({"target": obj.id} for obj in scene.objects)


def _alone(scene, facts):
    """The thing, if no other shares its box."""
    obj = scene.by_id(facts["target"])
    alone = obj and not any(iou(obj.box, other.box) >= _ALIKE for other in scene.objects if other is not obj)
    return obj if alone else None


@task("name_region", kind="grounding", propose=_things)
def name_region(scene, facts, say):
    if not (obj := _alone(scene, facts)):
        return None
    return Draft(question=say("question"), answer=say("answer", p=obj.phrase), question_boxes=[obj.box])


@task("region_colour", kind="grounding", closed=True, propose=_things)
def region_colour(scene, facts, say):
    """Without its name: the place alone tells which is meant. Of no painted word, for its plate has one too."""
    obj = _alone(scene, facts)
    if not obj or obj.kind == "text" or "colour" not in obj.attributes:
        return None
    return Draft(question=say("question"), answer=obj.attributes["colour"], question_boxes=[obj.box])


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
