"""Pascal VOC detection."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lynx_moe.evaluation.metrics.voc import Hits, voc_average_precision, voc_hits
from lynx_moe.evaluation.protocols.base import PROTOCOLS, Row
from lynx_moe.evaluation.protocols.category_names import spoken
from lynx_moe.evaluation.protocols.detection import DetectionProtocol, Scene
from lynx_moe.evaluation.protocols.grounding import setting
from lynx_moe.evaluation.protocols.voc_tables import NAMES, voc_pictures
from lynx_moe.interval import bootstrap_interval


@PROTOCOLS.register("voc_detection")
@dataclass(kw_only=True)
class VocDetection(DetectionProtocol):
    """Pascal VOC's mean AP at IoU 0.5, by area (2010 and later) and by 2007's eleven points.

    Difficult objects count neither for nor against. An overlap of exactly 0.5 is a hit, as in the development kit's
    VOCevaldet.m (py-faster-rcnn's Python copy of it wants more than 0.5).
    """

    name = "voc_detection"
    citation = "Everingham et al., IJCV 2010; ways to ask: arXiv 2410.10491"
    headline = "ap50"
    boxes_in = ("boxes",)
    files = "`Annotations/*.xml`, `ImageSets/Main/<split>.txt`, `JPEGImages/`"
    oracle = "VOC development kit `VOCevaldet.m`"
    pictures_usual = ("JPEGImages", "images")

    split: str = setting("test", "which list in ImageSets/Main: test (2007), val, train")

    def names(self) -> Mapping[str, Sequence[str]]:
        return {spoken(name): (name,) for name in NAMES}

    def scenes(self) -> Iterator[Scene]:
        known = set(self.names())
        for one in voc_pictures(self.folder, self.split, self.pictures(), self.faults):
            things = [(spoken(thing.name), thing.box, _area(thing.box), thing.difficult) for thing in one.things]
            unknown = sum(name not in known for name, *_ in things)
            if unknown:
                self.faults["object of an unknown category"] += unknown
            yield Scene(id=one.id, picture=one.picture, things=[thing for thing in things if thing[0] in known])

    def numbers(self, rows: Sequence[Row]) -> dict:
        hits = {label: _hits(rows, label) for label in sorted({one for row in rows for one in row.truth["labels"]})}
        by_category = {label: voc_average_precision(one) for label, one in hits.items()}
        return {
            "ap50": _mean(by_category.values()),
            **self._interval(list(hits.values()), len(rows)),
            "ap50_11_points": _mean(voc_average_precision(one, eleven_points=True) for one in hits.values()),
            "by_category": by_category,
            **self.about_the_asking(rows),
        }

    def _interval(self, hits: Sequence[Hits], num_pictures: int) -> dict:
        def draw(counts_P: np.ndarray) -> float | None:
            return _mean(voc_average_precision(one, counts_P=counts_P) for one in hits)

        found = bootstrap_interval(draw, num_pictures, seconds=self.interval_seconds) if num_pictures > 1 else None
        return {"interval": found and list(found[:2]), "interval_draws": found and found[2]}


def _hits(rows: Sequence[Row], label: str) -> Hits:
    found, true = [], []
    for row in rows:
        mine = [k for k, other in enumerate(row.labels) if other == label]
        found.append(([row.boxes[k] for k in mine], [row.confidences[k] for k in mine]))
        there = [k for k, other in enumerate(row.truth["labels"]) if other == label]
        true.append(([row.truth["boxes"][k] for k in there], [row.truth["uncounted"][k] for k in there]))
    return voc_hits(found, true)


def _area(box: Sequence[float]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _mean(values) -> float | None:
    told = [value for value in values if value is not None]
    return float(np.mean(told)) if told else None
