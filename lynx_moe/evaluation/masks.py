"""How well a model outlines: records whose answer speaks of its things by their masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lynx_moe.evaluation.answered import MEASURES, Answered, share
from lynx_moe.evaluation.matching import THRESHOLD
from lynx_moe.evaluation.metrics.segmentation import cumulative_iou, mask_areas, mask_ious


@dataclass(frozen=True, slots=True)
class Outlined:
    """How an answer's masks lie over the true ones.

    Attributes:
        overlaps: IoU of each true mask with the found one that was taken for it; 0 where none was.
        shared, union: pixels of all true masks together with all found ones together.
        found: masks that the answer has.
    """

    overlaps: tuple[float, ...]
    shared: int
    union: int
    found: int


def outlined(answered: Answered) -> Outlined | None:
    """None for a record that does not ask for masks.

    Each found mask is taken for at most one true one: pairs are made from the highest IoU down. An answer that calls
    another of several pictures by its number has found none.
    """
    record = answered.record
    if not record.speaks_masks:
        return None
    spoken = () if answered.in_another_picture else answered.masks
    true = [mask.array() for mask in record.masks if mask is not None]
    found = [mask.array() for mask in spoken if mask is not None]
    nothing = np.zeros(record.sizes[record.picture][::-1], bool)
    shared, union = mask_areas(np.any([nothing, *found], axis=0), np.any([nothing, *true], axis=0))
    pairs = sorted(
        ((_iou(one, other), k, n) for k, one in enumerate(true) for n, other in enumerate(found)), reverse=True
    )
    overlaps, taken = [0.0] * len(true), set()
    for overlap, k, n in pairs:
        if overlap > 0 and not overlaps[k] and n not in taken:
            overlaps[k] = overlap
            taken.add(n)
    return Outlined(tuple(overlaps), shared, union, len(found))


def _iou(one_HW: np.ndarray, other_HW: np.ndarray) -> float:
    shared, union = mask_areas(one_HW, other_HW)
    return float(mask_ious([shared], [union])[0])


def all_outlined(found: Outlined) -> bool:
    """Whether each true mask was found, by an IoU of at least 0.5, and nothing else was."""
    return found.found == len(found.overlaps) and all(overlap >= THRESHOLD for overlap in found.overlaps)


@MEASURES.register("masks")
def masks(answered: Sequence[Answered]) -> dict | None:
    """Numbers over the records whose answers speak of masks; None when there are none.

    Returns:
        `n` records with `asked` masks; `mean_iou` over the masks that were asked for, a missing one counting 0;
        `iou50`, the share of them with an IoU of at least 0.5; `ciou`, over records, with all masks of an answer put
        together; `no_mask`, the share of answers without any; the same by task. And over all answers `undrawn`: words
        for a mask that no head drew one for.
    """
    undrawn = sum(mask is None for a in answered for mask in a.masks)
    asked = [(a.record.task, found) for a in answered if (found := outlined(a)) is not None]
    if not asked and not undrawn:
        return None
    return {
        **_numbers([found for _, found in asked]),
        "by_task": {task: _numbers([f for name, f in asked if name == task]) for task in sorted({t for t, _ in asked})},
        "undrawn": undrawn,
    }


def _numbers(found: Sequence[Outlined]) -> dict:
    overlaps = [overlap for each in found for overlap in each.overlaps]
    return {
        "n": len(found),
        "asked": len(overlaps),
        "mean_iou": share(sum(overlaps), len(overlaps)),
        "iou50": share(sum(overlap >= THRESHOLD for overlap in overlaps), len(overlaps)),
        "ciou": cumulative_iou([each.shared for each in found], [each.union for each in found]) if found else None,
        "no_mask": share(sum(not each.found for each in found), len(found)),
    }
