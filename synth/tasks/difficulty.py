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


def difficulty(scene: Scene | tuple[Scene, ...] | None, facts: Facts, draft: Draft) -> int:
    """Return 1 (easy) to 5 (hard).

    ``1 + hops + alike + crowd + small``, at most 5:

    - hops: steps before the answer, and pictures beyond the first, at most 3;
    - alike: other things that share their name with a thing that is meant, at most 2 (for the thing with the most);
    - crowd: 1 from 5 objects in the pictures on, 2 from 10;
    - small: 1 where the smallest thing meant covers less than 2.25 % of its picture, 2 for less than 0.25 %.

    A thing is meant when one of the draft's boxes is its box, or, of one picture, when the facts name its id. Without
    a picture only the steps count.
    """
    if scene is None:
        return 1 + min(len(draft.steps), 3)
    scenes = scene if isinstance(scene, tuple) else (scene,)
    hops = min(len(draft.steps) + len(scenes) - 1, 3)
    alike = small = crowd = 0
    for k, one in enumerate(scenes):
        if "names" not in one.remembered:
            one.remembered["names"] = Counter(o.name for o in one.objects)
        names, whole = one.remembered["names"], one.width * one.height
        crowd += len(one.objects)
        for obj in _meant(one, k, facts if len(scenes) == 1 else {}, draft):
            alike = max(alike, names[obj.name] - 1)
            small = max(small, (obj.area < _SMALL[0] * whole) + (obj.area < _SMALL[1] * whole))
    return min(HARDEST, 1 + hops + min(2, alike) + (crowd >= _MANY[0]) + (crowd >= _MANY[1]) + small)


def _meant(scene: Scene, picture: int, facts: Facts, draft: Draft) -> list[Obj]:
    if "by_box" not in scene.remembered:
        by_box: dict = {}
        for obj in scene.objects:
            by_box.setdefault(obj.box, []).append(obj)
        scene.remembered["by_box"] = by_box
    by_box = scene.remembered["by_box"]
    meant = [scene.by_id(facts[key]) for key in _IDS if key in facts]
    meant += [scene.by_id(k) for k in facts.get("of", ())]
    parts = [(draft.picture, draft.boxes), (0, draft.question_boxes)]
    for lies_in, boxes in (*parts, *((step.picture, step.boxes) for step in draft.steps)):
        if lies_in == picture:
            for box in boxes:
                meant += by_box.get(box, ())
    return [obj for obj in meant if obj is not None]
