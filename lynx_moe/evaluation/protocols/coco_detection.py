"""COCO and LVIS, in COCO's layout of one JSON file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from lynx_moe.errors import ConfigError, RecordError
from lynx_moe.evaluation.metrics.coco import LVIS_LIMITS, coco_average_precision
from lynx_moe.evaluation.metrics.detected import Detected
from lynx_moe.evaluation.metrics.resampled_ap import average_precision_interval
from lynx_moe.evaluation.protocols.base import PROTOCOLS, Row
from lynx_moe.evaluation.protocols.coco_tables import CocoTables, read_coco, rows_of
from lynx_moe.evaluation.protocols.detection import DetectionProtocol, Scene, detected
from lynx_moe.evaluation.protocols.grounding import setting
from synth.sources.lvis import plain_names


@PROTOCOLS.register("coco_detection")
@dataclass(kw_only=True)
class CocoDetection(DetectionProtocol):
    """COCO's AP of boxes that a model writes.

    Crowds count neither for nor against; a category's 100 most confident boxes in a picture count.
    """

    name = "coco_detection"
    citation = "Lin et al., ECCV 2014; ways to ask: arXiv 2410.10491"
    headline = "ap"
    boxes_in = ("boxes",)
    files = "`annotations/instances_<split>.json` or `instances_<split>.json`; `<split>/` or `images/`"
    oracle = "pycocotools `COCOeval`"
    usual: ClassVar[tuple[str, ...]] = ("annotations/instances_{}.json", "instances_{}.json")
    limit: ClassVar[int | None] = None  # the evaluator itself keeps 100 boxes of each category

    split: str = setting("val2017", "which annotation file; names the picture folder too")
    annotations: str = setting("", "annotation file, relative to `folder`; empty: the usual places")

    def names(self) -> Mapping[str, Sequence[str]]:
        return {name: () for name in self.labels(list(rows_of(self._file(), "categories.item"))).values()}

    def labels(self, rows: Sequence[Any]) -> dict[Any, str]:
        """The name of each category by its id."""
        return {row["id"]: row["name"] for row in rows if _is_category(row)}

    def scenes(self) -> Iterator[Scene]:
        tables = read_coco(self._file(), self.faults)
        labels = self.labels(list(tables.categories.values()))
        pictures = self.pictures()
        for image in tables.images.values():
            picture = pictures.find(_file_name(image), image.get("width"), image.get("height"))
            if picture is None:
                continue
            marked = [one for one in tables.by_image.get(image["id"], ()) if one.category in labels]
            unknown = len(tables.by_image.get(image["id"], ())) - len(marked)
            if unknown:
                self.faults["annotation of an unknown category"] += unknown
            yield Scene(
                id=str(image["id"]),
                picture=picture,
                things=[(labels[one.category], one.box, one.area, one.crowd) for one in marked],
                **self.checked(image, labels, tables),
            )

    def checked(self, image: dict, labels: Mapping[Any, str], tables: CocoTables) -> dict[str, Any]:
        """What else a scene says of the categories that a picture was checked for."""
        return {}

    def numbers(self, rows: Sequence[Row]) -> dict:
        told = sorted({label for row in rows for label in row.truth["labels"]})
        ids = {label: number for number, label in enumerate(told, start=1)}
        pictures = detected(rows, ids, self.limit)
        categories = {ids[label]: {"name": label, **self.frequency(rows, label)} for label in told}
        return {
            **(coco_average_precision(pictures, categories, self.federated) if told else {"ap": None}),
            **self._interval(pictures),
            "ap_any_category": self._any_category(rows) if told and self.protocol == 1 and not self.federated else None,
            **self.about_the_asking(rows),
        }

    def frequency(self, rows: Sequence[Row], label: str) -> dict[str, str]:
        """What else a category's row says."""
        return {}

    def _interval(self, pictures: Sequence[Detected]) -> dict[str, Any]:
        found = average_precision_interval(pictures, self.federated, seconds=self.interval_seconds)
        return {"interval": found and list(found[:2]), "interval_draws": found and found[2]}

    def _any_category(self, rows: Sequence[Row]) -> float | None:
        pictures = detected(rows, {}, self.limit, any_category=True)
        return coco_average_precision(pictures, {1: {"name": "any"}})["ap"]

    def picture_places(self) -> Sequence[str]:
        return (self.split, "images")

    def _file(self) -> Path:
        tried = [self.folder / (self.annotations or one.format(self.split)) for one in self.usual]
        found = next((path for path in tried if path.is_file()), None)
        if found is None:
            raise RecordError(
                f"no annotations of split {self.split!r} in {self.folder}",
                why=f"looked for {', '.join(sorted({str(path) for path in tried}))}",
                fix="split=NAME, or annotations=FILE",
            )
        return found


@PROTOCOLS.register("lvis_detection")
@dataclass(kw_only=True)
class LvisDetection(CocoDetection):
    """LVIS's AP, by its federated rules.

    A picture is asked only about categories that are marked in it or known to be absent (`neg_category_ids`): of no
    other is there a truth, and boxes of others do not count. Of `not_exhaustive_category_ids` a box that hits nothing
    does not count. The 300 most confident boxes of a picture count. Protocol 2 needs `general_names`, and then
    there are no groups by frequency.
    """

    name = "lvis_detection"
    citation = "Gupta et al., CVPR 2019; ways to ask: arXiv 2410.10491"
    files = "`lvis_v1_<split>.json`, with COCO's `train2017/`, `val2017/` beside it or in `images/`"
    oracle = "pycocotools on the boxes that can be judged; rules of lvis-api `lvis/eval.py`"
    federated = True
    usual = ("lvis_v1_{}.json", "annotations/lvis_v1_{}.json", "lvis_{}.json")
    limit = LVIS_LIMITS[0]

    split: str = setting("val", "which lvis_v1_<split>.json")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.protocol == 2 and self.general_names is None:
            raise ConfigError(
                "protocol 2 on LVIS needs more general names",
                why="no table of its 1203 categories comes with the library",
                fix="general_names=FILE with a line 'name: general name' for every category",
            )

    def names(self) -> Mapping[str, Sequence[str]]:
        rows = list(rows_of(self._file(), "categories.item"))
        labels = self.labels(rows)
        return {labels[row["id"]]: _synonyms(row) for row in rows if _is_category(row)}

    def labels(self, rows: Sequence[Any]) -> dict[Any, str]:
        good = [row for row in rows if _is_category(row)]
        plain = plain_names([row["name"] for row in good])
        return {row["id"]: plain[row["name"]] for row in good}

    def checked(self, image: dict, labels: Mapping[Any, str], tables: CocoTables) -> dict[str, Any]:
        here = {one.category for one in tables.by_image.get(image["id"], ())}
        return {
            "absent": _named(image.get("neg_category_ids"), labels),
            "unsure": _named(image.get("not_exhaustive_category_ids"), labels),
            "frequencies": {
                labels[key]: letter
                for key in here
                if key in labels and (letter := tables.categories[key].get("frequency")) in ("r", "c", "f")
            },
        }

    def frequency(self, rows: Sequence[Row], label: str) -> dict[str, str]:
        known = filter(None, (row.truth["frequencies"].get(label) for row in rows))
        return {"frequency": letter} if (letter := next(known, None)) else {}

    def picture_places(self) -> Sequence[str]:
        return ("images", ".")  # its names of pictures begin with COCO's folder


def _is_category(row: Any) -> bool:
    return isinstance(row, dict) and isinstance(row.get("id"), int) and isinstance(row.get("name"), str)


def _synonyms(row: dict) -> list[str]:
    listed = row.get("synonyms")
    return [one for one in listed if isinstance(one, str)] if isinstance(listed, list) else []


def _named(ids: Any, labels: Mapping[Any, str]) -> list[str]:
    return [labels[one] for one in ids if isinstance(one, int) and one in labels] if isinstance(ids, list) else []


def _file_name(image: dict) -> object:
    """LVIS 1.0 has COCO's address instead of a file name, whose last two parts are folder and file."""
    address = image.get("coco_url")
    return image.get("file_name") or ("/".join(address.split("/")[-2:]) if isinstance(address, str) else None)
