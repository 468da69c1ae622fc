"""F1_all and F1_loc of grounded captions (Zhou et al., CVPR 2019, "Grounded Video Description").

After `FlickrGrdEval.grd_eval` of the authors' eval_grd_flickr30k_entities.py. Precision and recall are means over
classes, each divided by all classes that the true captions have; F1 is of these two means. In "loc" only words that
both captions have count, so it says how well is pointed at what was rightly said.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lynx_moe.evaluation.metrics.overlap import Corners, overlaps

THRESHOLD = 0.5
IRREGULAR = {"men": "man", "women": "woman", "children": "child", "people": "person", "feet": "foot", "mice": "mouse"}


@dataclass(frozen=True, kw_only=True, slots=True)
class TrueCaption:
    """One true caption: its words, and of those that name a thing the place, the class and the box."""

    tokens: Sequence[str]
    places: Sequence[int]
    classes: Sequence[str]
    boxes: Sequence[Corners]


@dataclass(frozen=True, slots=True)
class Tally:
    """Hits and attempts by picture and class, (P, C) each; `there_PC` says which classes the true captions have."""

    precise_PC: np.ndarray
    told_PC: np.ndarray
    recalled_PC: np.ndarray
    asked_PC: np.ndarray
    there_PC: np.ndarray

    def f1(self, counts_P: np.ndarray | None = None) -> dict[str, float | None]:
        """`precision`, `recall` and `f1`, where picture p counts `counts_P[p]` times; None without any class."""
        counts_P = np.ones(len(self.there_PC)) if counts_P is None else counts_P
        num_classes = int(((counts_P @ self.there_PC) > 0).sum())
        if not num_classes:
            return {"precision": None, "recall": None, "f1": None}
        precision = _sum_of_shares(counts_P @ self.precise_PC, counts_P @ self.told_PC) / num_classes
        recall = _sum_of_shares(counts_P @ self.recalled_PC, counts_P @ self.asked_PC) / num_classes
        both = precision + recall
        return {"precision": precision, "recall": recall, "f1": 2 * precision * recall / both if both else 0.0}


def tally(
    captions: Sequence[Sequence[TrueCaption]],
    classes: Sequence[Sequence[str]],
    boxes: Sequence[Sequence[Corners]],
    only_said: bool = False,
) -> Tally:
    """Count hits of one generated caption a picture against each of its true ones.

    Args:
        captions: per picture, the true captions.
        classes, boxes: per picture, what the generated caption names and where it puts it, in order. Of one class named
            twice the first counts for recall, and a true caption's first word of it for precision, as in the code.
        only_said: F1_loc instead of F1_all.
    """
    known = sorted(
        {name for some in captions for one in some for name in one.classes} | {c for some in classes for c in some}
    )
    place = {name: k for k, name in enumerate(known)}
    precise, told, recalled, asked, there = (np.zeros((len(captions), len(known))) for _ in range(5))
    for picture, (some, found, found_boxes) in enumerate(zip(captions, classes, boxes, strict=True)):
        for true in some:
            there[picture, [place[name] for name in true.classes]] = 1
            first = {name: _first(true, name) for name in true.classes}
            others = {
                form for k, word in enumerate(true.tokens) if k not in set(true.places) for form in singulars(word)
            }
            for name, box in zip(found, found_boxes, strict=True):
                if name in first:
                    told[picture, place[name]] += 1
                    precise[picture, place[name]] += _hits(box, true.boxes[first[name]])
                # A thing that is said without a box in the true caption is not held against the answer.
                elif not only_said and not singulars(name) & others:
                    told[picture, place[name]] += 1
            for name, box in zip(true.classes, true.boxes, strict=True):
                if name in found:
                    asked[picture, place[name]] += 1
                    recalled[picture, place[name]] += _hits(found_boxes[found.index(name)], box)
                elif not only_said:
                    asked[picture, place[name]] += 1
    return Tally(precise, told, recalled, asked, there)


def singulars(word: str) -> set[str]:
    """A word as it is and as it might be in the singular: in place of the authors' lemmas, which a Java program makes.

    >>> sorted(singulars("Dishes"))
    ['dish', 'dishe', 'dishes']
    """
    word = word.lower()
    return {word, IRREGULAR.get(word, word), re.sub(r"s$", "", word), re.sub(r"es$", "", word)} - {""}


def _first(true: TrueCaption, name: str) -> int:
    return min((k for k, other in enumerate(true.classes) if other == name), key=lambda k: true.places[k])


def _hits(box: Corners, true: Corners) -> bool:
    return bool(overlaps([box], [true], inclusive=True)[0, 0] > THRESHOLD)


def _sum_of_shares(hits_C: np.ndarray, tried_C: np.ndarray) -> float:
    """The sum over classes of hits per attempt; a class without attempts adds nothing."""
    return float(np.divide(hits_C, tried_C, out=np.zeros_like(tried_C), where=tried_C > 0).sum())
