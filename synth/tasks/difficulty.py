"""How hard a question is, from what it takes to answer it: derived, never drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING

from synth.scene import Box, Scene

if TYPE_CHECKING:
    from synth.tasks.base import Draft, Facts

HARDEST = 5
_MANY = (5, 10)  # objects in the picture from which it is crowded, and very much so
_SMALL = (0.0225, 0.0025)  # share of the picture: COCO's medium (96 px) and small (32 px) on pictures of 640 px
_IDS = frozenset(("target", "anchor", "one", "two", "subject", "object"))  # facts that are the id of one thing


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
    if "meant" not in scene.remembered:
        scene.remembered["meant"] = _by_id_and_box(scene)
    by_id, by_box = scene.remembered["meant"]
    meant = [by_id[value] for key, value in facts.items() if key in _IDS and value in by_id]
    if "of" in facts:
        meant += [by_id[k] for k in facts["of"] if k in by_id]
    for part in (draft, *draft.steps):
        meant += [by_box[box] for box in part.boxes if box in by_box]
    meant += [by_box[box] for box in draft.question_boxes if box in by_box]
    whole, crowd = scene.width * scene.height, len(scene.objects)
    hard = 1 + hops + (crowd >= _MANY[0]) + (crowd >= _MANY[1])
    if meant:
        alike, least = max(meant)[0], min(area for _, area in meant)
        hard += min(2, alike - 1) + (least < _SMALL[0] * whole) + (least < _SMALL[1] * whole)
    return min(HARDEST, hard)


def _by_id_and_box(scene: Scene) -> tuple[dict[int, tuple[int, float]], dict[Box, tuple[int, float]]]:
    """The same two numbers by the thing's id, and by its box: of several in one box the most that share a name."""
    by_id, by_box = {}, {}
    for obj in reversed(scene.objects):  # of several with one id the first is meant, as by Scene.by_id
        told = len(scene.by_name[obj.name]), obj.area
        by_id[obj.id] = told
        by_box[obj.box] = max(told, by_box.get(obj.box, told))
    return by_id, by_box
