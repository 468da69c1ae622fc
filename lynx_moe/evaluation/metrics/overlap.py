"""Overlaps of all pairs of two lists of boxes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

Corners = Sequence[float] | Iterable[float]


def box_array(boxes: Iterable[Corners]) -> np.ndarray:
    """(n, 4) float64 of boxes, also of none."""
    return np.array([tuple(box) for box in boxes], dtype=np.float64).reshape(-1, 4)


def overlaps(found: Iterable[Corners], true: Iterable[Corners], inclusive: bool = False) -> np.ndarray:
    """Intersection over union of each found box with each true one, (F, M); 0 where both are empty.

    Args:
        inclusive: corners name pixels and the last one belongs to the box, as in Pascal VOC's and GVD's code, which add
            1 to each side.
    """
    shared_FM, union_FM, _ = _areas(box_array(found), box_array(true), float(inclusive))
    return np.divide(shared_FM, union_FM, out=np.zeros_like(shared_FM), where=union_FM > 0)


def generalised_overlaps(found: Iterable[Corners], true: Iterable[Corners]) -> np.ndarray:
    """Generalised IoU (Rezatofighi et al. 2019, algorithm 1), (F, M): the IoU less the empty share of the hull.

    Never above the IoU, so a threshold on it is the stricter one. Two empty boxes in one place have 0.
    """
    shared_FM, union_FM, hull_FM = _areas(box_array(found), box_array(true), 0.0)
    iou_FM = np.divide(shared_FM, union_FM, out=np.zeros_like(shared_FM), where=union_FM > 0)
    return iou_FM - np.divide(hull_FM - union_FM, hull_FM, out=np.zeros_like(hull_FM), where=hull_FM > 0)


def _areas(found_F4: np.ndarray, true_M4: np.ndarray, more: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Areas of intersection, union and hull, (F, M) each; every side is `more` longer than its corners say."""

    def area(low_FM2: np.ndarray, high_FM2: np.ndarray) -> np.ndarray:
        return np.prod(np.maximum(high_FM2 - low_FM2 + more, 0), axis=-1)

    low_F, high_F, low_M, high_M = (
        found_F4[:, None, :2],
        found_F4[:, None, 2:],
        true_M4[None, :, :2],
        true_M4[None, :, 2:],
    )
    shared_FM = area(np.maximum(low_F, low_M), np.minimum(high_F, high_M))
    union_FM = area(low_F, high_F) + area(low_M, high_M) - shared_FM
    return shared_FM, union_FM, area(np.minimum(low_F, low_M), np.maximum(high_F, high_M))
