"""Describe the whole picture and say where everything is: from its objects, or from a caption that somebody wrote."""

from synth.tasks.base import Draft, task
from synth.tasks.describe import in_order
from synth.tasks.space import places

_MOST = 20  # boxes in one answer


def _propose(scene, rng):
    yield {"caption": None}
    yield from ({"caption": k} for k in range(len(scene.captions)))


@task("grounded_caption", kind="grounding", propose=_propose)
def grounded_caption(scene, facts, say):
    k = facts["caption"]
    if k is None:
        return _of_objects(scene, say)
    return _as_written(scene, scene.captions[k], say) if 0 <= k < len(scene.captions) else None


def _of_objects(scene, say):
    """A list from left to right, where that order is plain."""
    found = in_order(scene)
    if not found or len(found) > _MOST:
        return None
    parts = [say("at", p=o.phrase, at=places(1, k)) for k, o in enumerate(found)]
    return Draft(
        question=say("from_objects"), answer=say("list", things=say.listing(parts)), boxes=[o.box for o in found]
    )


def _as_written(scene, caption, say):
    """Each span of the caption is followed by the boxes of what it means."""
    if not say.pack.writes(caption.text):
        return None
    boxes, text, end = [], "", 0
    for start, stop, ids in sorted(caption.spans):
        found = [obj for id in ids if (obj := scene.by_id(id))]
        if not found or not end <= start < stop <= len(caption.text):
            continue
        text += caption.text[end:stop] + say("span", at=places(len(found), len(boxes)))
        boxes += [obj.box for obj in found]
        end = stop
    if not 1 <= len(boxes) <= _MOST:
        return None
    return Draft(question=say("as_written"), answer=text + caption.text[end:], boxes=boxes)
