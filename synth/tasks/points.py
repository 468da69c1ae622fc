"""From a point to words and back: what is shown there, and which box belongs to it."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np

from synth.scene import Box, Obj, Point, Scene
from synth.tasks.base import Draft, Facts, task

_QUANTUM = 0.01  # of the longer side: as far as writing a point in percent may move it
_TRIES = 30  # draws for one thing; of a star a quarter of the box is well inside
_A_PICTURE = 2  # things pointed at


def _near(box: Box, point: Point, margin: float) -> bool:
    """Whether the point lies in the box, or so many pixels beside it; never for what is no number."""
    (x1, y1, x2, y2), (x, y) = box, point
    return x1 - margin <= x < x2 + margin and y1 - margin <= y < y2 + margin


def means(scene: Scene, obj: Obj, point: Point, by: str) -> bool:
    """Whether the point, [x, y] in pixels, plainly means that thing and no other, also when it is written in percent.

    By "mask": the pixels around it are all the thing's, and it lies on no other thing. By "box": it lies in the middle
    half of the thing's box, across and down, and in no other thing's box; not where instances may be missing, for one
    of them may lie there. It never lies in the box of what is there but not listed.
    """
    reach = _QUANTUM * max(scene.width, scene.height)
    if not _near(obj.box, point, 0) or any(_near(box, point, reach) for box in scene.unlisted):
        return False
    others = [other for other in scene.objects if other is not obj and _near(other.box, point, reach)]
    if by == "mask":
        return _covered(obj, point, max(1, round(reach))) and not any(_may_cover(other, point) for other in others)
    middle = all(abs(point[k] - obj.centre[k]) <= side / 4 for k, side in enumerate((obj.width, obj.height)))
    return by == "box" and scene.exhaustive and middle and not others and min(obj.width, obj.height) > 2 * reach


def _covered(obj: Obj, point: Point, reach: int) -> bool:
    """Whether all pixels of the picture within ``reach`` of the point's own are the thing's, by its mask."""
    mask = obj.pixels()
    if mask is None:
        return False
    x, y = map(int, point)
    return bool(mask[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1].all())


def _may_cover(obj: Obj, point: Point) -> bool:
    mask = obj.pixels()
    return mask is None or bool(mask[int(point[1]), int(point[0])])


def pointed(scene: Scene, rng: random.Random, things: list[Obj], most: int = _A_PICTURE) -> Iterator[Facts]:
    """A point on each of so many of the things, by its mask where the source drew one; places are drawn, not middles.

    Letters are thinner than the dialects are exact: a word is pointed at by its box.
    """
    for obj in rng.sample(things, min(most, len(things))):
        by = "mask" if isinstance(obj.mask, np.ndarray) and obj.kind != "text" else "box"
        share = 0.5 if by == "mask" else 0.25  # of the box's sides, to either side of its middle
        for _ in range(_TRIES):
            x, y = (
                round(middle + rng.uniform(-share, share) * side, 1)
                for middle, side in zip(obj.centre, (obj.width, obj.height), strict=True)
            )
            if means(scene, obj, (x, y), by):
                yield {"target": obj.id, "point": [x, y], "by": by}
                break


def at_point(scene: Scene, facts: Facts) -> tuple[Obj, Point] | None:
    """(thing, point) of such facts, or None where the scene does not bear them out."""
    obj, (x, y) = scene.by_id(facts["target"]), facts["point"]
    return (obj, (x, y)) if obj and means(scene, obj, (x, y), facts["by"]) else None


def _propose(scene: Scene, rng: random.Random) -> Iterator[Facts]:
    return pointed(scene, rng, scene.objects)


@task("name_point", kind="grounding", propose=_propose)
def name_point(scene, facts, say):
    if not (found := at_point(scene, facts)):
        return None
    obj, point = found
    return Draft(question=say("question"), answer=say("answer", p=obj.phrase), question_points=[point])


@task("find_at_point", kind="grounding", propose=_propose)
def find_at_point(scene, facts, say):
    if not (found := at_point(scene, facts)):
        return None
    obj, point = found
    return Draft(
        question=say("question"), answer=say("answer"), boxes=[obj.box], question_points=[point], phrase=say("phrase")
    )
