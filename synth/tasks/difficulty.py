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
    crowd = sum(len(one.objects) for one in scenes)
    alike = small = 0
    for picture, one in enumerate(scenes):
        if meant := _meant(one, picture, facts if len(scenes) == 1 else {}, draft):
            alike = max(alike, max(meant)[0] - 1)
            least, whole = min(area for _, area in meant), one.width * one.height
            small = max(small, (least < _SMALL[0] * whole) + (least < _SMALL[1] * whole))
    hops = min(len(draft.steps) + len(scenes) - 1, 3)
    return min(HARDEST, 1 + hops + min(2, alike) + (crowd >= _MANY[0]) + (crowd >= _MANY[1]) + small)


def _meant(scene: Scene, picture: int, facts: Facts, draft: Draft) -> list[tuple[int, float]]:
    """How many share its name, and its area, of every thing of the picture that is meant; one may come twice."""
    if "meant" not in scene.remembered:
        scene.remembered["meant"] = _by_id_and_box(scene)
    by_id, by_box = scene.remembered["meant"]
    meant = [by_id[value] for key, value in facts.items() if key in _IDS and value in by_id]
    if "of" in facts:
        meant += [by_id[k] for k in facts["of"] if k in by_id]
    for part in (draft, *draft.steps):
        if part.picture == picture:
            meant += [by_box[box] for box in part.boxes if box in by_box]
    if picture == 0:
        meant += [by_box[box] for box in draft.question_boxes if box in by_box]
    return meant


def _by_id_and_box(scene: Scene) -> tuple[dict[int, tuple[int, float]], dict[Box, tuple[int, float]]]:
    """The same two numbers by the thing's id, and by its box: of several in one box the most that share a name."""
    by_id, by_box = {}, {}
    for obj in reversed(scene.objects):  # of several with one id the first is meant, as by Scene.by_id
        told = len(scene.by_name[obj.name]), obj.area
        by_id[obj.id] = told
        by_box[obj.box] = max(told, by_box.get(obj.box, told))
    return by_id, by_box
