"""PIN's zero-shot localisation: pictures with few objects, each asked for by the name of its category."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from lynx_moe.errors import ConfigError
from lynx_moe.evaluation.protocols.base import PROTOCOLS, Item, Reply, Row
from lynx_moe.evaluation.protocols.coco_detection import CocoDetection, LvisDetection
from lynx_moe.evaluation.protocols.detection import DetectionProtocol
from lynx_moe.evaluation.protocols.grounding import (
    GroundingProtocol,
    first_box,
    mean,
    picture_interval,
    row_of,
    setting,
    words,
)
from lynx_moe.evaluation.protocols.voc_detection import VocDetection
from lynx_moe.grounding import iou

READERS: Mapping[str, tuple[type[DetectionProtocol], str]] = {
    "coco": (CocoDetection, "val2017"),
    "lvis": (LvisDetection, "val"),
    "voc": (VocDetection, "test"),
}


@PROTOCOLS.register("pin")
@dataclass(kw_only=True)
class Pin(GroundingProtocol):
    """Mean IoU of the first box, over all objects of pictures with one to three, on COCO's, LVIS's or VOC's files.

    As in the authors' loaders, crowds and difficult objects are objects like others, and of two things with one name
    each is asked for by that name and held against its own box, so that such pairs cannot both be had. Their grid of
    coordinates, in which they score too, is their model's and has no part here. The question is our choice; an answer
    without a box has IoU 0.
    """

    name = "pin"
    citation = "Dorkenwald et al., CVPR 2024 (PIN), arXiv 2402.08657"
    headline = "mean_iou"
    boxes_in = ("box",)
    files = "those of `coco_detection`, `lvis_detection` or `voc_detection`"
    oracle = "QUVA-Lab/PIN `eval_dloaders/`, `trainer.py`"

    data: str = setting("coco", "coco, lvis or voc: whose files lie in the folder")
    split: str = setting("", "as of that protocol; empty: val2017, val, test")
    annotations: str = setting("", "annotation file of COCO or LVIS, relative to `folder`; empty: the usual places")
    most_objects: int = setting(3, "pictures with more are left out")
    prompt: str = setting("Find the {category}.", "the question; {category} is the name")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.data not in READERS:
            raise ConfigError(f"data is {self.data!r}", why=f"it is one of {', '.join(READERS)}", fix="data=coco")
        if self.data == "voc" and self.annotations:
            raise ConfigError(
                "annotations is set, and VOC has one file per picture", why="it would do nothing", fix="leave it out"
            )

    def read(self) -> Iterator[Item]:
        kind, usual_split = READERS[self.data]
        more = {"annotations": self.annotations} if self.annotations else {}
        reader = kind(folder=self.folder, images=self.images, split=self.split or usual_split, **more)
        reader.faults = self.faults
        for scene in reader.scenes():
            if not 0 < len(scene.things) <= self.most_objects:
                self.faults["picture with no object, or more than asked for"] += 1
                continue
            for k, (name, box, *_) in enumerate(scene.things):
                key = f"{scene.id}-{k}"
                yield Item(
                    id=key,
                    asks=(self.ask(scene.picture, words(self.prompt, category=name), key, name),),
                    truth={"image": scene.picture.file, "category": name, "box": list(map(float, box))},
                    group=f"{len(scene.things)} object{'s'[: len(scene.things) > 1]}",
                )

    def judge(self, item: Item, replies: Sequence[Reply]) -> Row:
        box = first_box(replies[0])
        overlap = iou(box, item.truth["box"]) if box else 0.0
        return row_of(item, replies, right=overlap >= 0.5, numbers={"iou": overlap})

    def numbers(self, rows: Sequence[Row]) -> dict:
        return {
            "mean_iou": mean(row.numbers["iou"] for row in rows),
            "interval": picture_interval(rows, [row.numbers["iou"] for row in rows]),
            "acc50": mean(bool(row.right) for row in rows),
            "no_box": mean(not row.boxes for row in rows),
        }
