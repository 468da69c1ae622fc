"""Numbers of referring segmentation from the areas of each answer's mask with its true one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9)


def mask_areas(found_HW: np.ndarray, true_HW: np.ndarray) -> tuple[int, int]:
    """Pixels of intersection and of union of two boolean masks of one picture."""
    return int(np.count_nonzero(found_HW & true_HW)), int(np.count_nonzero(found_HW | true_HW))


def mask_ious(shared: Sequence[float], union: Sequence[float]) -> np.ndarray:
    """(P,) intersection over union of each row; 0 where both masks are empty, as in LAVT's test.py."""
    shared_P, union_P = np.asarray(shared, dtype=np.float64), np.asarray(union, dtype=np.float64)
    return np.divide(shared_P, union_P, out=np.zeros_like(shared_P), where=union_P > 0)


def cumulative_iou(shared: Sequence[float], union: Sequence[float]) -> float | None:
    """cIoU (also "overall IoU"): all intersections over all unions; None when there is no union.

    Large things weigh more than small ones in it. Source: LAVT test.py, LISA and GRES evaluation code, all alike.
    """
    total = float(np.sum(union))
    return float(np.sum(shared)) / total if total else None


def general_iou(shared: Sequence[float], union: Sequence[float]) -> float | None:
    """gIoU of LISA and GRES ("mIoU" in LAVT): the mean of each row's IoU, nothing to do with boxes' generalised IoU.

    They differ where both masks are empty (1 in LISA, 0 here and in LAVT), which no row of RefCOCO's truth allows.
    """
    ious_P = mask_ious(shared, union)
    return float(ious_P.mean()) if len(ious_P) else None


def precision_at(shared: Sequence[float], union: Sequence[float], level: float) -> float | None:
    """Pr@X: the share of rows whose IoU is at least `level` (`>=` in LAVT and in GRES)."""
    ious_P = mask_ious(shared, union)
    return float((ious_P >= level).mean()) if len(ious_P) else None
