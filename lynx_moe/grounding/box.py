"""The one box of the library: original pixels, two corners."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle on a picture, in pixels of the picture as its owner knows it, never of a resized copy.

    `(x1, y1)` is the upper left corner and `(x2, y2)` the lower right one. `confidence` is None when nobody measured
    it.

    >>> Box(0, 0, 10, 10).iou(Box(5, 0, 15, 10))
    0.3333333333333333
    """

    x1: float
    y1: float
    x2: float
    y2: float
    label: str = ""
    confidence: float | None = None

    @property
    def xyxy(self) -> tuple[float, float, float, float]:
        """The four numbers alone."""
        return self.x1, self.y1, self.x2, self.y2

    @property
    def area(self) -> float:
        """Square pixels; 0 when the corners are not in order."""
        return max(0.0, self.x2 - self.x1) * max(0.0, self.y2 - self.y1)

    def __iter__(self) -> Iterator[float]:
        return iter(self.xyxy)

    def iou(self, other: Iterable[float]) -> float:
        """Intersection over union with another box."""
        return iou(self, other)

    def clip(self, size: tuple[int, int]) -> Box:
        """The part of the box inside a picture of `size` (width, height); no area when it lies outside."""
        width, height = size
        x1, x2 = (min(max(x, 0.0), width) for x in (self.x1, self.x2))
        y1, y2 = (min(max(y, 0.0), height) for y in (self.y1, self.y2))
        return replace(self, x1=x1, y1=y1, x2=x2, y2=y2)


def iou(a: Iterable[float], b: Iterable[float]) -> float:
    """Intersection over union of two xyxy boxes in the same frame; 0.0 when both are empty.

    >>> iou((0, 0, 2, 2), (0, 0, 2, 2)), iou((0, 0, 1, 1), (1, 1, 2, 2)), iou((0, 0, 0, 0), (0, 0, 0, 0))
    (1.0, 0.0, 0.0)
    """
    ax1, ay1, ax2, ay2 = a
    bx1, by1, bx2, by2 = b
    shared = max(0.0, min(ax2, bx2) - max(ax1, bx1)) * max(0.0, min(ay2, by2) - max(ay1, by1))
    union = max(0.0, ax2 - ax1) * max(0.0, ay2 - ay1) + max(0.0, bx2 - bx1) * max(0.0, by2 - by1) - shared
    return shared / union if union > 0 else 0.0
