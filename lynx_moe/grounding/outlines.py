"""The outline of a mask: few corners, in pixels, from which the mask can be drawn again.

Our own: OpenCV, which no part of `lynx_moe` needs, leads contours through the middles of the outermost pixels and
Pillow fills these too, which makes a small thing smaller or larger by its rim.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence

import numpy as np

Outline = list[tuple[float, float]]

CORNERS = 32  # of all outlines of one mask together; our choice
LEAST = 0.02  # of the mask's pixels: parts and holes smaller than this are left out; our choice
TOLERANCE = 0.75  # pixels: a line nearer than this to all of its pixels' edges is not broken; our choice


def outlines(mask_HW: np.ndarray, most: int = 4, corners: int = CORNERS) -> list[Outline]:
    """Closed lines (x, y) around the parts of a mask, the largest first; none for a mask without pixels.

    Holes are cut out, by a line that leads into each and back, where this comes nearer to the mask than leaving them
    out: few corners do not do for both. Corners are put where they are needed most, by the rule of Douglas and Peucker
    (1973), over all parts together.

    Args:
        mask_HW: (height, width) bool.
        most: parts at most.
        corners: at most so many in all, but three of each part.
    """
    parts = _parts(mask_HW, most)
    filled = [part[:1] for part in parts]
    # Each hole takes three corners, and two more for the line that leads into it and back.
    room = max(0, corners - 3 * len(parts)) // 5
    holes = sorted((hole for part in parts for hole in part[1:]), key=_area)[:room]
    pierced = [[part[0], *(hole for hole in part[1:] if any(hole is one for one in holes))] for part in parts]
    choices = [filled, pierced] if holes else [filled]
    return max((_outlined(choice, corners) for choice in choices), key=lambda found: likeness(found, mask_HW))


def quadrilaterals(mask_HW: np.ndarray, most: int = 4) -> list[Outline]:
    """As `outlines`, but of four corners each: those needed most, or the smallest rectangle around the part."""
    found = []
    for loop, *_ in _parts(mask_HW, most):
        part_HW = drawn([_points(loop)], mask_HW.shape)
        choices = _points(_four(_thinned([loop], 4)[0])), _points(_rectangle(loop))
        found.append(max(choices, key=lambda four: likeness([four], part_HW)))  # noqa: B023
    return found


def drawn(found: Sequence[Outline], shape: tuple[int, int]) -> np.ndarray:
    """(height, width) bool: the pixels whose middles lie inside of an outline (by the even-odd rule)."""
    height, width = shape
    covered_HW = np.zeros(shape, bool)
    for outline in found:
        # Going right along the middles of a row, each line that is crossed leads in or out.
        turns_HW = np.zeros((height, width + 1), bool)
        for (x1, y1), (x2, y2) in zip(outline, [*outline[1:], outline[0]], strict=True):
            first, last = (min(max(math.ceil(y - 0.5), 0), height) for y in sorted((y1, y2)))
            rows = np.arange(first, last)
            if len(rows):
                x = x1 + (rows + 0.5 - y1) / (y2 - y1) * (x2 - x1)
                turns_HW[rows, np.clip(np.ceil(x - 0.5), 0, width).astype(int)] ^= True
        covered_HW |= np.logical_xor.accumulate(turns_HW, axis=1)[:, :width]
    return covered_HW


def likeness(found: Sequence[Outline], mask_HW: np.ndarray) -> float:
    """Intersection over union of outlines and a mask; 0.0 where both are empty."""
    drawn_HW = drawn(found, mask_HW.shape)
    return np.count_nonzero(drawn_HW & mask_HW) / max(1, np.count_nonzero(drawn_HW | mask_HW))


def _outlined(parts: list[list[np.ndarray]], corners: int) -> list[Outline]:
    """The outlines of parts, each given by the line around it and those around its holes."""
    bridges = 2 * sum(len(part) - 1 for part in parts)
    thinned = iter(_thinned([loop for part in parts for loop in part], corners - bridges))
    return [_points(_joined([next(thinned) for _ in part])) for part in parts]


def _points(loop: np.ndarray) -> Outline:
    return list(map(tuple, loop.tolist()))


def _parts(mask_HW: np.ndarray, most: int) -> list[list[np.ndarray]]:
    """Of each part of a mask, so many at most, the largest first, the line around it and those around its holes."""
    least = LEAST * np.count_nonzero(mask_HW)
    loops = sorted(_loops(mask_HW), key=lambda loop: -abs(_area(loop)))
    loops = [loop for k, loop in enumerate(loops) if k == 0 or abs(_area(loop)) >= least]
    parts = [[loop] for loop in loops if _area(loop) > 0]
    for hole in (loop for loop in loops if _area(loop) < 0):
        # The smallest line that goes around it: lines of one mask never cross, and what goes around is larger.
        around = [part for part in parts if _area(part[0]) > -_area(hole) and _inside(hole[0], part[0])]
        around[-1].append(hole)
    return parts[:most]


def _loops(mask_HW: np.ndarray) -> list[np.ndarray]:
    """The closed lines between a mask and its ground, each (n, 2) points x, y.

    They follow the edges of pixels and have their points in the middles of these, so that a slanted line is neither
    inside nor outside of its pixels, and in the corners between two straight ends. Parts run clockwise as seen, holes
    the other way round. Pixels that touch in a corner only are different parts.
    """
    padded = np.pad(mask_HW, 1).astype(np.int8)
    ahead: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for y, x in np.argwhere(np.diff(padded, axis=1)).tolist():  # edges that stand upright
        upper, lower = (x, y - 1), (x, y)
        start, end = (lower, upper) if padded[y, x + 1] else (upper, lower)
        ahead.setdefault(start, []).append(end)
    for y, x in np.argwhere(np.diff(padded, axis=0)).tolist():  # edges that lie
        left, right = (x - 1, y), (x, y)
        start, end = (left, right) if padded[y + 1, x] else (right, left)
        ahead.setdefault(start, []).append(end)
    found = []
    while ahead:
        here, before, walked = next(iter(ahead)), None, []
        while here in ahead:
            ends = ahead[here]
            # Where two lines meet in a corner, a turn to the right stays with this part.
            turn = None if before is None else (here[0] + before[1] - here[1], here[1] + here[0] - before[0])
            if walked and here == walked[0] and turn == walked[1]:
                break  # this part is closed; what else begins here is another's
            there = ends.pop(ends.index(turn) if turn in ends else 0)
            if not ends:
                del ahead[here]
            walked.append(here)
            before, here = here, there
        found.append(_with_corners(np.array(walked, float)))
    return found


def _with_corners(walked: np.ndarray) -> np.ndarray:
    """The middles of the steps from each point to the next, and the points between two steps ahead and two aside."""
    steps = np.roll(walked, -1, axis=0) - walked
    straight = (steps == np.roll(steps, 1, axis=0)).all(1)  # the step goes on as the one before it
    corners = np.flatnonzero(~straight & np.roll(straight, 1) & np.roll(straight, -1))
    return np.insert(walked + steps / 2, corners, walked[corners], axis=0)


def _area(points: np.ndarray) -> float:
    """The area inside of a closed line, positive where it runs clockwise as seen."""
    x, y = points.T
    return float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y)) / 2


def _inside(point: np.ndarray, loop: np.ndarray) -> bool:
    """Whether a point lies inside of a closed line: a ray to the right crosses it an odd number of times."""
    x1, y1 = loop.T
    x2, y2 = np.roll(loop, -1, axis=0).T
    crosses = (y1 > point[1]) != (y2 > point[1])
    at = x1[crosses] + (point[1] - y1[crosses]) / (y2[crosses] - y1[crosses]) * (x2[crosses] - x1[crosses])
    return bool(np.count_nonzero(at > point[0]) % 2)


def _thinned(loops: list[np.ndarray], corners: int) -> list[np.ndarray]:
    """The lines with their most needed points only, so many of all together; at least three of each."""
    kept = [_three(loop) for loop in loops]
    heap = []

    def offer(k: int, start: int, end: int) -> None:
        distance, area, middle = _furthest(loops[k], start, end)
        if distance > TOLERANCE:
            heapq.heappush(heap, (-area, k, start, middle, end))

    for k, own in enumerate(kept):
        for start, end in zip(own, own[1:] + own[:1], strict=True):
            offer(k, start, end)
    left = corners - sum(map(len, kept))
    while heap and left > 0:
        _, k, start, middle, end = heapq.heappop(heap)
        kept[k].append(middle)
        left -= 1
        offer(k, start, middle)
        offer(k, middle, end)
    return [loop[sorted(own)] for loop, own in zip(loops, kept, strict=True)]


def _three(loop: np.ndarray) -> list[int]:
    """Three points of a closed line, far from each other: numbers in rising order."""
    first = int(np.argmax(((loop - loop.mean(0)) ** 2).sum(1)))
    second = int(np.argmax(((loop - loop[first]) ** 2).sum(1)))
    along = loop[second] - loop[first]
    beside = np.abs((loop - loop[first]) @ np.array([-along[1], along[0]]))
    return sorted({first, second, int(np.argmax(beside))})


def _furthest(loop: np.ndarray, start: int, end: int) -> tuple[float, float, int]:
    """(distance, area beside, number) of the point between two that lies furthest from the line between these."""
    between = np.arange(start + 1, end if end > start else end + len(loop)) % len(loop)
    if not len(between):
        return 0.0, 0.0, start
    along, to = loop[end] - loop[start], loop[between] - loop[start]
    length = along @ along
    share = np.clip(to @ along / length, 0, 1) if length else np.zeros(len(to))
    distance = np.linalg.norm(to - share[:, None] * along, axis=1)
    k = int(np.argmax(distance))
    return float(distance[k]), float(distance.sum()), int(between[k])


def _four(loop: np.ndarray) -> np.ndarray:
    """The line with a fourth corner in the middle of its longest side, where it has only three."""
    if len(loop) == 4:
        return loop
    ahead = np.roll(loop, -1, axis=0)
    k = int(np.argmax(((ahead - loop) ** 2).sum(1)))
    return np.insert(loop, k + 1, (loop[k] + ahead[k]) / 2, axis=0)


def _rectangle(loop: np.ndarray) -> np.ndarray:
    """The corners of the smallest rectangle, turned by whole degrees, around a line."""
    angles = np.radians(np.arange(90))
    axes_A2 = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    across_A2 = np.stack([-np.sin(angles), np.cos(angles)], axis=1)
    u, v = loop @ axes_A2.T, loop @ across_A2.T  # (points, angles)
    k = int(np.argmin(np.ptp(u, axis=0) * np.ptp(v, axis=0)))
    (a, b), (c, d) = ((w[:, k].min(), w[:, k].max()) for w in (u, v))
    return np.array([(a, c), (b, c), (b, d), (a, d)]) @ np.stack([axes_A2[k], across_A2[k]])


def _joined(loops: list[np.ndarray]) -> np.ndarray:
    """One closed line of that around a part and those around its holes, by lines that are walked both ways."""
    whole, *holes = loops
    for hole in holes:
        apart = ((whole[:, None] - hole[None]) ** 2).sum(-1)
        i, j = np.unravel_index(np.argmin(apart), apart.shape)
        whole = np.concatenate([whole[: i + 1], hole[j:], hole[: j + 1], whole[i:]])
    return whole
