"""How hard a question is, from what it takes to answer it: derived, never drawn."""

from __future__ import annotations

from collections import Counter
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
    if "names" not in scene.remembered:
        scene.remembered["names"] = Counter(o.name for o in scene.objects)
    names, whole = scene.remembered["names"], scene.width * scene.height
    most, least = 1, whole
    for obj in _meant(scene, facts, draft):
        most, least = max(most, names[obj.name]), min(least, obj.area)
    crowd = len(scene.objects)
    hard = 1 + hops + min(2, most - 1) + (crowd >= _MANY[0]) + (crowd >= _MANY[1])
    return min(HARDEST, hard + (least < _SMALL[0] * whole) + (least < _SMALL[1] * whole))


def _meant(scene: Scene, facts: Facts, draft: Draft) -> list[Obj]:
    if "by_box" not in scene.remembered:
        by_box: dict = {}
        for obj in scene.objects:
            by_box.setdefault(obj.box, []).append(obj)
        scene.remembered["by_box"] = by_box
    by_box = scene.remembered["by_box"]
    meant = [scene.by_id(facts[key]) for key in _IDS if key in facts]
    meant += [scene.by_id(k) for k in facts.get("of", ())]
    for boxes in (draft.boxes, draft.question_boxes, *(step.boxes for step in draft.steps)):
        for box in boxes:
            meant += by_box.get(box, ())
    return [obj for obj in meant if obj is not None]
