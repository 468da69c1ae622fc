"""Whether one answered record is right: the one rule that samples, rows and flips go by."""

from __future__ import annotations

from lynx_moe.evaluation.answered import Answered
from lynx_moe.evaluation.grounding import first_box_iou, hits_of, is_absent, is_listing, is_referring, says_none
from lynx_moe.evaluation.masks import all_outlined, outlined
from lynx_moe.evaluation.matching import THRESHOLD
from lynx_moe.evaluation.retention import is_right


def overlap_of(answered: Answered) -> float | None:
    """IoU of the first box with the one true box, or of the one mask that is asked for with what was taken for it; None
    where there is not one of either to be found.
    """
    found = outlined(answered)
    if found is not None:
        return found.overlaps[0] if len(found.overlaps) == 1 else None
    return first_box_iou(answered) if is_referring(answered.record) else None


def verdict(answered: Answered) -> bool:
    """Whether the answer is right, by what its record asks for."""
    record, boxes = answered.record, answered.parsed.boxes
    found = outlined(answered)
    if found is not None:
        return all_outlined(found)
    if is_referring(record):
        return first_box_iou(answered) >= THRESHOLD
    if is_listing(record):
        return hits_of(answered) == len(record.boxes) == len(boxes)
    if is_absent(record):
        return says_none(answered)
    return is_right(answered)
