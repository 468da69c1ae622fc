"""How hard a question is, from what it takes to answer it: derived, never drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING

from synth.scene import Obj, Scene

if TYPE_CHECKING:
    from synth.tasks.base import Draft, Facts

HARDEST = 5
_MANY = (5, 10)  # objects in the picture from which it is crowded, and very much so
_SMALL = (0.0225, 0.0025)  # share of the picture: COCO's medium (96 px) and small (32 px) on pictures of 640 px
_IDS = ("target", "anchor", "one", "two", "subject", "object")  # facts that are the id of one thing


def difficulty(scene: Scene | None, facts: Facts, draft: Draft) -> int:
    """Return 1 (easy) to 5 (hard).

    ``1 + hops + alike + crowd + small``, at most 5:

    - hops: steps before the answer, at most 3;
    - alike: other things that share their name with a thing that is meant, at most 2 (for the thing with the most);
    - crowd: 1 from 5 objects in the picture on, 2 from 10;
    - small: 1 where the smallest thing meant covers less than 2.25 % of the picture, 2 for less than 0.25 %.

    A thing is meant when the facts name its id or when one of the draft's boxes is its box. Without a picture only
    the steps count.
    """
    hops = min(len(draft.steps), 3)
    if scene is None:
        return 1 + hops
    meant = _meant(scene, facts, draft)
    alike = min(2, max((sum(o.name == m.name for o in scene.objects) - 1 for m in meant), default=0))
    crowd = sum(len(scene.objects) >= many for many in _MANY)
    share = min((m.area for m in meant), default=scene.width * scene.height) / (scene.width * scene.height)
    return min(HARDEST, 1 + hops + alike + crowd + sum(share < small for small in _SMALL))


def _meant(scene: Scene, facts: Facts, draft: Draft) -> list[Obj]:
    ids = {facts[key] for key in _IDS if key in facts} | set(facts.get("of", ()))
    boxes = {tuple(box) for box in (*draft.boxes, *draft.question_boxes, *(b for s in draft.steps for b in s.boxes))}
    return [o for o in scene.objects if o.id in ids or o.box in boxes]
