"""RefCOCO, RefCOCO+ and RefCOCOg: one phrase, one thing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lynx_moe.evaluation.protocols.base import PROTOCOLS, Item, Reply, Row
from lynx_moe.evaluation.protocols.grounding import (
    GroundingProtocol,
    first_box,
    mean,
    picture_interval,
    row_of,
    setting,
    words,
)
from lynx_moe.evaluation.protocols.refer_files import PICTURES, sentences
from lynx_moe.grounding import iou

THRESHOLD = 0.5


@PROTOCOLS.register("refcoco")
@dataclass(kw_only=True)
class RefCoco(GroundingProtocol):
    """Acc@0.5 of the first box, over the sentences of RefCOCO, RefCOCO+ or RefCOCOg, by split.

    An answer is right if the IoU is at least 0.5 (`>=` in MAttNet's and MDETR's code; MDETR's holds the generalised
    IoU against it, which is stricter). The one box is the first written: published models give one box, so "which of
    several" is our choice, and the strict one.
    """

    name = "refcoco"
    citation = "Yu et al., ECCV 2016 (RefCOCO, RefCOCO+); Mao et al., CVPR 2016 (RefCOCOg)"
    headline = "acc50"
    boxes_in = ("box",)
    files = "`refs(unc).p`, `refs(google).p`, `refs(umd).p` or `.json`; `instances.json`; `images/` or `train2014/`"
    oracle = "MAttNet `lib/models/eval_dets_utils.py`"
    pictures_usual = PICTURES

    split: str = setting("val", "val, testA, testB, test or train, or several: testA+testB")
    split_by: str = setting("", "who divided the data: unc, google or umd; empty: the only file there is")
    prompt: str = setting("Find {phrase}.", "the question; {phrase} is the sentence")

    def read(self) -> Iterator[Item]:
        pictures = self.pictures()
        for said in sentences(self.folder, "refs", self.split_by, self.split, self.faults):
            if len(said.things) != 1:
                self.faults["sentence about no object or several"] += 1
                continue
            picture = pictures.find(said.image.get("file_name"), said.image.get("width"), said.image.get("height"))
            if picture is not None:
                question = words(self.prompt, phrase=said.text)
                yield Item(
                    id=said.id,
                    asks=(self.ask(picture, question, said.id, said.text),),
                    truth={"image": picture.file, "phrase": said.text, "box": list(said.things[0].box)},
                    group=said.split,
                )

    def judge(self, item: Item, replies: Sequence[Reply]) -> Row:
        box = first_box(replies[0])
        overlap = iou(box, item.truth["box"]) if box else 0.0
        return row_of(item, replies, right=overlap >= THRESHOLD, numbers={"iou": overlap})

    def numbers(self, rows: Sequence[Row]) -> dict:
        return {
            "acc50": mean(bool(row.right) for row in rows),
            "interval": picture_interval(rows, [float(bool(row.right)) for row in rows]),
            "mean_iou": mean(row.numbers["iou"] for row in rows),
            "no_box": mean(not row.boxes for row in rows),
        }
