"""How sure a COCO or LVIS AP is: matched once, then averaged again for every draw of pictures.

The number itself is the COCO API's (`coco.py`), which cannot weigh pictures. Its matching and averaging stand here a
second time, in a form where a picture drawn twice counts twice; with every picture once the two agree
(tests/evaluation/metrics).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lynx_moe.evaluation.metrics.coco import COCO_LIMITS, LVIS_LIMITS
from lynx_moe.evaluation.metrics.detected import Detected
from lynx_moe.evaluation.metrics.overlap import box_array
from lynx_moe.interval import bootstrap_interval

LEVELS_T = np.linspace(0.5, 0.95, 10)
RECALLS_R = np.linspace(0, 1, 101)


@dataclass(frozen=True, slots=True)
class Matched:
    """The boxes found of one category in all pictures, most confident first.

    `hit_TD`, `miss_TD`: (T, D) at each IoU level; what is neither does not count. `pictures_D`: (D,) where each lies.
    `marked_in_M`: (M,) the picture of each true one.
    """

    hit_TD: np.ndarray
    miss_TD: np.ndarray
    pictures_D: np.ndarray
    marked_in_M: np.ndarray


def average_precision_interval(
    pictures: Sequence[Detected], federated: bool = False, draws: int = 1000, seconds: float = 60.0
) -> tuple[float, float, int] | None:
    """95 % percentile interval of the bootstrap over pictures for AP, and from how many draws it comes.

    None where fewer than two draws gave a number. See `lynx_moe.interval.bootstrap_interval` about `seconds`.
    """
    matched = match_all(pictures, federated)
    return bootstrap_interval(
        lambda counts_P: weighted_ap(matched, counts_P), len(pictures), draws=draws, seconds=seconds
    )


def weighted_ap(matched: Sequence[Matched], counts_P: np.ndarray) -> float | None:
    """AP over categories and IoU levels when picture p is there `counts_P[p]` times; None without anything to find."""
    of_each = [value for one in matched if (value := _category_ap(one, counts_P)) is not None]
    return float(np.mean(of_each)) if of_each else None


def _category_ap(one: Matched, counts_P: np.ndarray) -> float | None:
    marked = counts_P[one.marked_in_M].sum()
    if not marked:
        return None
    weight_D = counts_P[one.pictures_D]
    hit_TD, miss_TD = np.cumsum(weight_D * one.hit_TD, axis=1), np.cumsum(weight_D * one.miss_TD, axis=1)
    precision_TD = hit_TD / np.maximum(hit_TD + miss_TD, 1)
    best_TD = np.maximum.accumulate(precision_TD[:, ::-1], axis=1)[:, ::-1]
    best_TD = np.concatenate([best_TD, np.zeros((len(LEVELS_T), 1))], axis=1)  # recalls never reached
    at_TR = np.stack([np.searchsorted(recall_D, RECALLS_R) for recall_D in hit_TD / marked])
    return float(np.take_along_axis(best_TD, at_TR, axis=1).mean())


def match_all(pictures: Sequence[Detected], federated: bool) -> list[Matched]:
    """Each category's found boxes of all pictures against the true ones."""
    parts: dict[int, list[tuple]] = defaultdict(list)
    marked: dict[int, list[int]] = defaultdict(list)
    for number, picture in enumerate(pictures):
        for category in sorted({*picture.true_categories, *picture.found_categories}):
            if federated and category not in picture.true_categories and category not in picture.absent:
                continue
            true = [k for k, other in enumerate(picture.true_categories) if other == category]
            marked[category] += [number] * sum(not picture.crowds[k] for k in true)
            found = [k for k, other in enumerate(picture.found_categories) if other == category]
            found.sort(key=lambda k: -picture.confidences[k])
            found = found[: (LVIS_LIMITS if federated else COCO_LIMITS)[-1]]
            if found:
                hit_TD, miss_TD = _match(picture, found, true)
                if federated and category in picture.unsure:
                    miss_TD = np.zeros_like(miss_TD)
                parts[category].append((hit_TD, miss_TD, [picture.confidences[k] for k in found], number))
    return [_joined(parts[category], marked[category]) for category in sorted(marked)]


def _joined(parts: list[tuple], marked: list[int]) -> Matched:
    none_T0 = np.zeros((len(LEVELS_T), 0), bool)
    scores_D = np.array([score for _, _, scores, _ in parts for score in scores])
    order = np.argsort(-scores_D, kind="mergesort")
    return Matched(
        hit_TD=np.concatenate([none_T0, *(hit for hit, *_ in parts)], axis=1)[:, order],
        miss_TD=np.concatenate([none_T0, *(miss for _, miss, *_ in parts)], axis=1)[:, order],
        pictures_D=np.array([number for _, _, scores, number in parts for _ in scores], dtype=int)[order],
        marked_in_M=np.array(marked, dtype=int),
    )


def _match(picture: Detected, found: list[int], true: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """cocoeval.py's evaluateImg for one category: (T, D) hits and misses of `found`, in its order."""
    true = sorted(true, key=lambda k: picture.crowds[k])  # a single thing is preferred to a crowd
    crowd_M = np.array([picture.crowds[k] for k in true], dtype=bool)
    table_DM = _overlaps(
        box_array(picture.found_boxes[k] for k in found), box_array(picture.true_boxes[k] for k in true), crowd_M
    )
    hit_TD, ignored_TD = (np.zeros((len(LEVELS_T), len(found)), bool) for _ in range(2))
    for level, threshold in enumerate(LEVELS_T):
        free_M = np.ones(len(true), bool)
        for place, row_M in enumerate(table_DM):
            fits_M = free_M & (row_M >= min(threshold, 1 - 1e-10))
            if not fits_M.any():
                continue
            among_M = fits_M & ~crowd_M if (fits_M & ~crowd_M).any() else fits_M
            # Of equal overlaps the API takes the last one.
            best = len(true) - 1 - int(np.where(among_M, row_M, -1.0)[::-1].argmax())
            hit_TD[level, place], ignored_TD[level, place] = not crowd_M[best], crowd_M[best]
            free_M[best] = crowd_M[best]  # a crowd takes in any number
    return hit_TD, ~hit_TD & ~ignored_TD


def _overlaps(found_D4: np.ndarray, true_M4: np.ndarray, crowd_M: np.ndarray) -> np.ndarray:
    """(D, M): IoU; with a crowd the share of the found box that lies in it."""
    sides_DM2 = np.minimum(found_D4[:, None, 2:], true_M4[None, :, 2:]) - np.maximum(
        found_D4[:, None, :2], true_M4[None, :, :2]
    )
    shared_DM = np.prod(np.maximum(sides_DM2, 0), axis=-1)
    area_D, area_M = (np.prod(boxes[:, 2:] - boxes[:, :2], axis=-1) for boxes in (found_D4, true_M4))
    over_DM = np.where(crowd_M[None], area_D[:, None], area_D[:, None] + area_M[None] - shared_DM)
    return np.divide(shared_DM, over_DM, out=np.zeros_like(shared_DM), where=over_DM > 0)
