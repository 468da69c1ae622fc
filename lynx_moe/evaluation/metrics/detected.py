"""One picture as a detection benchmark sees it: what is true in it and what was found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

Corners = Sequence[float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Detected:
    """True and found boxes (xyxy, original pixels) of one picture, by category id.

    Args:
        size: (width, height).
        true_boxes, true_categories: what is there.
        crowds: of each true box, whether it holds many; what lies in one counts neither for nor against.
        areas: of each true box, the area that decides whether the thing is small, in square pixels.
        found_boxes, found_categories, confidences: the answer; more confident boxes are matched first.
        absent: categories known not to be there (LVIS: `neg_category_ids`).
        unsure: categories of which not everything is marked (LVIS: `not_exhaustive_category_ids`).
    """

    size: tuple[int, int]
    true_boxes: Sequence[Corners] = ()
    true_categories: Sequence[int] = ()
    crowds: Sequence[bool] = ()
    areas: Sequence[float] = ()
    found_boxes: Sequence[Corners] = ()
    found_categories: Sequence[int] = ()
    confidences: Sequence[float] = ()
    absent: frozenset[int] = field(default_factory=frozenset)
    unsure: frozenset[int] = field(default_factory=frozenset)
