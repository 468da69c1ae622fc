"""Which found boxes are which true ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lynx_moe.grounding import iou

THRESHOLD = 0.5


def matched(found: Sequence[Iterable[float]], true: Sequence[Iterable[float]], threshold: float = THRESHOLD) -> int:
    """The most pairs (found, true) with IoU of at least `threshold` in which no box stands twice.

    A true maximum, by augmenting paths: pairing the best overlaps first can end with fewer pairs.
    """
    fits = [[k for k, box in enumerate(true) if iou(candidate, box) >= threshold] for candidate in found]
    owner: dict[int, int] = {}

    def place(candidate: int, tried: set[int]) -> bool:
        for k in fits[candidate]:
            if k not in tried:
                tried.add(k)
                if k not in owner or place(owner[k], tried):
                    owner[k] = candidate
                    return True
        return False

    return sum(place(candidate, set()) for candidate in range(len(found)))
