"""Exact counts over a data set: how often each answer, wording, place and size occurs, and how even that is."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

from synth.quality.even import counting

GRID = 3  # cells along each side, for telling where boxes lie
FINE = 24  # cells along each side of the heat map
AREAS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)  # upper edges: share of the picture that a box covers
_MOST = 50_000  # different answers or wordings counted per task; a task with more is plainly not guessable by habit


class Counts:
    """Counts words exactly until there are ``_MOST`` different ones; further new ones are counted together."""

    def __init__(self) -> None:
        self.of: Counter[str] = Counter()
        self.beyond = 0

    def add(self, word: str) -> None:
        if word in self.of or len(self.of) < _MOST:
            self.of[word] += 1
        else:
            self.beyond += 1

    def summary(self, top: int = 20) -> dict:
        """Return the number, the different ones, the commonest, entropy in bits and evenness (1: all alike)."""
        total = sum(self.of.values()) + self.beyond
        return {
            "total": total, "different": len(self.of), "beyond": self.beyond,
            "top": [[word, n] for word, n in _ordered(self.of)[:top]], **evenness(self.of),
        }  # fmt: skip


def _ordered(counts: Counter) -> list[tuple]:
    return sorted(counts.items(), key=lambda item: (-item[1], str(item[0])))


def evenness(counts: Counter) -> dict:
    """Return entropy in bits, evenness (entropy over its largest value, 0 to 1) and the share of the commonest.

    >>> evenness(Counter(yes=3, no=3))
    {'entropy': 1.0, 'evenness': 1.0, 'largest_share': 0.5}
    """
    total = sum(counts.values())
    if not total:
        return {"entropy": 0.0, "evenness": 0.0, "largest_share": 0.0}
    shares = [n / total for n in counts.values() if n]
    entropy = -sum(p * math.log2(p) for p in shares) + 0.0
    even = entropy / math.log2(len(shares)) if len(shares) > 1 else 0.0
    return {"entropy": round(entropy, 4), "evenness": round(even, 4), "largest_share": round(max(shares), 4)}


@dataclass(slots=True)
class Places:
    """Where boxes lie and how large they are, as shares of the picture."""

    cells: Counter = field(default_factory=Counter)
    fine: Counter = field(default_factory=Counter)
    areas: Counter = field(default_factory=Counter)

    def add(self, box: list[float], width: int, height: int) -> None:
        """Count one box, xyxy in pixels of a ``width`` x ``height`` picture."""
        x, y = (box[0] + box[2]) / 2 / width, (box[1] + box[3]) / 2 / height
        share = (box[2] - box[0]) * (box[3] - box[1]) / (width * height)
        self.cells[_cell(y, GRID), _cell(x, GRID)] += 1
        self.fine[_cell(y, FINE), _cell(x, FINE)] += 1
        self.areas[next((k for k, edge in enumerate(AREAS) if share <= edge), len(AREAS) - 1)] += 1

    def summary(self) -> dict:
        """Return the counts as nested lists (rows from the top) and how even they are."""
        cells = [[self.cells[r, c] for c in range(GRID)] for r in range(GRID)]
        areas = [self.areas[k] for k in range(len(AREAS))]
        fine = [[self.fine[r, c] for c in range(FINE)] for r in range(FINE)]
        return {
            "total": sum(areas), "cells": cells, "cells_evenness": evenness(self.cells),
            "areas": areas, "area_edges": list(AREAS), "areas_evenness": evenness(self.areas), "heat": fine,
        }  # fmt: skip


def _cell(share: float, cells: int) -> int:
    return min(cells - 1, max(0, int(share * cells)))


@dataclass(slots=True)
class TaskTally:
    """Everything counted of one task."""

    kind: str
    records: int = 0
    splits: Counter = field(default_factory=Counter)
    answers: Counts = field(default_factory=Counts)
    types: Counts = field(default_factory=Counts)
    wordings: Counts = field(default_factory=Counts)
    boxes: Counter = field(default_factory=Counter)
    places: Places = field(default_factory=Places)

    def summary(self) -> dict:
        """Return every number, ready for JSON."""
        return {
            "kind": self.kind, "records": self.records, "splits": dict(sorted(self.splits.items())),
            "answers": self.answers.summary(), "question_types": self.types.summary(),
            "wordings": self.wordings.summary(), "answers_that_count": len(counting(self.answers.of)),
            "boxes_per_record": {str(k): n for k, n in sorted(self.boxes.items())}, "places": self.places.summary(),
        }  # fmt: skip
