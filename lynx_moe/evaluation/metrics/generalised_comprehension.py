"""Referring expressions that mean none, one or several things: gRefCOCO's numbers (Liu et al., CVPR 2023)."""

from __future__ import annotations

import numpy as np


def f1_of_boxes(overlaps_FM: np.ndarray, num_found: int, num_true: int, threshold: float = 0.5) -> float:
    """F1 of one answer: the best pair of all is taken again and again, while it overlaps by at least `threshold`.

    After `RefExpEvaluator.summarize` of gRefCOCO's repository (mdetr/datasets/refexp.py). That code fills its matrix
    with the generalised IoU (`generalised_overlaps`), the paper's text says IoU: both can be given.

    Args:
        overlaps_FM: (F, M) of the boxes that could be read.
        num_found: boxes that the answer gives, at least F: one that cannot be read hits nothing (our choice).
        num_true: 0 where the phrase means nothing in the picture. Then an answer without boxes has 1, any other 0.
    """
    if num_true == 0:
        return float(num_found == 0)
    left_FM, hits = overlaps_FM.astype(np.float64, copy=True), 0
    while left_FM.size and left_FM.max() >= threshold:
        found, true = np.unravel_index(left_FM.argmax(), left_FM.shape)
        left_FM[found, :] = left_FM[:, true] = -np.inf
        hits += 1
    return 2 * hits / (num_found + num_true)
