"""Average precision as Pascal VOC's development kit computes it (VOCevaldet.m; Everingham et al. 2010)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from lynx_moe.evaluation.metrics.overlap import Corners, overlaps

THRESHOLD = 0.5


@dataclass(frozen=True, slots=True)
class Hits:
    """Detections of one class over all pictures, most confident first.

    `hit_D`, `miss_D`: (D,) booleans; a detection that is neither lies on a difficult object and does not count.
    `pictures_D`: (D,) which picture each lies in. `marked_P`: (P,) true objects of each picture, but difficult ones.
    """

    hit_D: np.ndarray
    miss_D: np.ndarray
    pictures_D: np.ndarray
    marked_P: np.ndarray


def voc_hits(
    found: Sequence[tuple[Iterable[Corners], Sequence[float]]],
    true: Sequence[tuple[Iterable[Corners], Sequence[bool]]],
) -> Hits:
    """Which detections of one class hit.

    Each detection, the most confident first, is held against the true box that it overlaps most: a hit if by at least
    0.5 and nobody hit that box before. Equal confidences keep the order of pictures, and of boxes in them.

    Args:
        found: per picture, boxes and their confidences.
        true: per picture, boxes and whether each is difficult.
    """
    all_of = [(c, p, k) for p, (_, confidences) in enumerate(found) for k, c in enumerate(confidences)]
    order = sorted(all_of, key=lambda one: -one[0])
    tables = [overlaps(boxes, marked) for (boxes, _), (marked, _) in zip(found, true, strict=True)]
    taken: set[tuple[int, int]] = set()
    hit_D, miss_D = np.zeros(len(order), bool), np.zeros(len(order), bool)
    for place, (_, picture, k) in enumerate(order):
        row_M = tables[picture][k]
        best = int(row_M.argmax()) if row_M.size else -1
        if best < 0 or row_M[best] < THRESHOLD:
            miss_D[place] = True
        elif not true[picture][1][best]:
            hit_D[place] = (picture, best) not in taken
            miss_D[place] = not hit_D[place]
            taken.add((picture, best))
    marked_P = np.array([sum(not hard for hard in difficult) for _, difficult in true])
    return Hits(hit_D, miss_D, np.array([picture for _, picture, _ in order], dtype=int), marked_P)


def voc_average_precision(hits: Hits, eleven_points: bool = False, counts_P: np.ndarray | None = None) -> float | None:
    """AP of one class; None when no object of it counts.

    Args:
        eleven_points: VOC 2007's mean of the best precision at recalls 0, 0.1 .. 1; else the area under the curve (2010
            and later).
        counts_P: (P,) how often each picture counts, for drawing pictures with replacement.
    """
    counts_P = np.ones(len(hits.marked_P), dtype=int) if counts_P is None else counts_P
    marked = int(counts_P @ hits.marked_P)
    if not marked:
        return None
    weight_D = counts_P[hits.pictures_D]
    hit_D, miss_D = np.cumsum(weight_D * hits.hit_D), np.cumsum(weight_D * hits.miss_D)
    counted_D = hit_D + miss_D > 0
    hit_D, miss_D = hit_D[counted_D], miss_D[counted_D]
    recall_D, precision_D = hit_D / marked, hit_D / (hit_D + miss_D)
    # The best precision at this recall or a higher one.
    best_D = np.maximum.accumulate(precision_D[::-1])[::-1]
    if eleven_points:
        # 1e-12: a recall of exactly 0.3 is a little less than 3 * 0.1 in floats.
        at = np.searchsorted(recall_D, np.linspace(0, 1, 11) - 1e-12)
        return float(sum(best_D[k] for k in at if k < len(best_D)) / 11)
    return float(np.sum(np.diff(recall_D, prepend=0.0) * best_D))
