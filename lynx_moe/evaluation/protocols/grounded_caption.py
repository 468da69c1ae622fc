"""Grounded captioning: a description in which each thing has a box."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from lynx_moe.errors import RecordError
from lynx_moe.evaluation.metrics.grounded_captions import TrueCaption, tally
from lynx_moe.evaluation.protocols.base import PROTOCOLS, Item, Reply, Row
from lynx_moe.evaluation.protocols.category_names import CategoryNames
from lynx_moe.evaluation.protocols.coco_tables import is_number, rows_of
from lynx_moe.evaluation.protocols.detection import UNNAMED, spoken_before
from lynx_moe.evaluation.protocols.flickr30k_entities import PICTURES
from lynx_moe.evaluation.protocols.grounding import GroundingProtocol, mean, row_of, setting
from lynx_moe.interval import bootstrap_interval

REFERENCE = "flickr30k_cleaned_class.json"
SPLITS = "split_ids_flickr30k_entities.json"


@PROTOCOLS.register("grounded_caption")
@dataclass(kw_only=True)
class GroundedCaption(GroundingProtocol):
    """F1_all and F1_loc on Flickr30k Entities, from the reference files of "Grounded Video Description".

    A box's class is found in its label, or in the words before it (`CategoryNames.find`): GVD's model says its class
    itself. Boxes of no class are counted (`unnamed`) and left out, since the measure knows only the reference's
    classes. An overlap must be over 0.5, with pixels counted inclusively, as in that code. Words are brought to the
    singular by a rule where the authors use Stanford's lemmas.
    """

    name = "grounded_caption"
    citation = "Zhou et al., CVPR 2019 (GVD); Plummer et al., ICCV 2015"
    headline = "f1_all"
    files = f"`{REFERENCE}`, `{SPLITS}`, `flickr30k-images/`"
    oracle = "facebookresearch/grounded-video-description `eval_grd_flickr30k_entities.py`"
    pictures_usual = PICTURES

    split: str = setting("test", "val, test or train of the split file")
    prompt: str = setting("Describe the picture, and say where each thing is that you mention.", "the question")
    _finder: tuple[list[str], CategoryNames] | None = field(default=None, init=False, repr=False)

    def read(self) -> Iterator[Item]:
        self._finder = None
        wanted = self._wanted()
        pictures = self.pictures()
        for row in rows_of(self.folder / REFERENCE, "annotations.item"):
            if not isinstance(row, dict) or str(row.get("image_id")) not in wanted:
                continue
            name = str(row["image_id"])
            captions = [_caption(one) for one in row.get("captions") or () if isinstance(one, dict)]
            if not captions or None in captions:
                self.faults["caption without words, or of unequal lists"] += 1
                continue
            picture = pictures.find(f"{name}.jpg")
            if picture is not None:
                yield Item(
                    id=name,
                    asks=(self.ask(picture, self.prompt, name),),
                    truth={"image": picture.file, "captions": captions},
                )

    def judge(self, item: Item, replies: Sequence[Reply]) -> Row:
        names, finder = self._classes()
        labels = []
        for k in range(len(replies[0].parsed.boxes)):
            found = finder.find(spoken_before(replies[0], k))
            labels.append(UNNAMED if found is None else names[found])
        return row_of(item, replies, labels=labels, numbers={"unnamed": float(labels.count(UNNAMED))})

    def numbers(self, rows: Sequence[Row]) -> dict:
        captions = [[TrueCaption(**one) for one in row.truth["captions"]] for row in rows]
        named = [[k for k, label in enumerate(row.labels) if label != UNNAMED] for row in rows]
        classes = [[row.labels[k] for k in some] for row, some in zip(rows, named, strict=True)]
        boxes = [[row.boxes[k] for k in some] for row, some in zip(rows, named, strict=True)]
        every = tally(captions, classes, boxes)
        said = tally(captions, classes, boxes, only_said=True)
        interval = bootstrap_interval(lambda counts_P: every.f1(counts_P)["f1"], len(rows)) if len(rows) > 1 else None
        total = sum(len(row.boxes) for row in rows)
        return {
            "interval": None if interval is None else [interval[0], interval[1]],
            **{f"{key}_all": value for key, value in every.f1().items()},
            **{f"{key}_loc": value for key, value in said.f1().items()},
            "boxes_per_picture": mean(len(row.boxes) for row in rows),
            "unnamed": sum(row.numbers["unnamed"] for row in rows) / total if total else None,
        }

    def _classes(self) -> tuple[list[str], CategoryNames]:
        """All classes of the reference, whatever the split: a box may be of one that the split never has."""
        if self._finder is None:
            names: dict[str, None] = {}
            for row in rows_of(self.folder / REFERENCE, "annotations.item.captions.item.process_clss.item"):
                if isinstance(row, str):
                    names[row] = None
            self._finder = list(names), CategoryNames({k: [name] for k, name in enumerate(names)})
        return self._finder

    def _wanted(self) -> set[str]:
        listed = list(rows_of(self.folder / SPLITS, f"{self.split}.item"))
        if not listed:
            raise RecordError(
                f"no split {self.split!r} in {self.folder / SPLITS}", why="it lists no picture", fix="split=val or test"
            )
        return {str(one) for one in listed}


def _caption(row: dict) -> dict[str, Any] | None:
    """The row's own fields under the names of `TrueCaption`; None when they do not fit together."""
    tokens, places = row.get("tokens"), row.get("process_idx")
    classes, boxes = row.get("process_clss"), row.get("process_bnd_box")
    lists = (tokens, places, classes, boxes)
    if not all(isinstance(one, list) for one in lists) or not len(places) == len(classes) == len(boxes):
        return None
    fits = (
        all(isinstance(word, str) for word in (*tokens, *classes))
        and all(isinstance(place, int) for place in places)
        and all(isinstance(box, list) and len(box) == 4 and all(map(is_number, box)) for box in boxes)
    )
    return {"tokens": tokens, "places": places, "classes": classes, "boxes": boxes} if fits else None
