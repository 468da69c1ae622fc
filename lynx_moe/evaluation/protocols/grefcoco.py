"""gRefCOCO: phrases that mean nothing in the picture, one thing, or several."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lynx_moe.data import final_answer
from lynx_moe.evaluation.metrics.generalised_comprehension import f1_of_boxes
from lynx_moe.evaluation.metrics.overlap import generalised_overlaps, overlaps
from lynx_moe.evaluation.protocols.base import PROTOCOLS, Item, Reply, Row
from lynx_moe.evaluation.protocols.grounding import (
    GroundingProtocol,
    confidences_of,
    mean,
    picture_interval,
    row_of,
    setting,
    words,
)
from lynx_moe.evaluation.protocols.refer_files import PICTURES, sentences


@PROTOCOLS.register("grefcoco")
@dataclass(kw_only=True)
class GRefCoco(GroundingProtocol):
    """Pr@(F1=1, IoU>=0.5), N-acc and T-acc of gRefCOCO.

    `precision_f1` pairs boxes by IoU, as the paper's text has it; `precision_f1_giou` by generalised IoU, as the
    authors' evaluator does. `n_acc` is the share of phrases without target that got no box, `t_acc` of those with one
    that got any. The authors count boxes with a score of at least 0.7; text has no such score, so all boxes count
    unless `min_confidence` says otherwise. Text that looks like a box and cannot be read counts as a box that hits
    nothing, and an empty answer does not say "nothing" (both our choice, both stricter).
    """

    name = "grefcoco"
    citation = "Liu et al., CVPR 2023 (gRefCOCO); He et al., arXiv 2308.16182 (GREC)"
    headline = "precision_f1"
    boxes_in = ("boxes",)
    files = "`grefs(unc).json` (or `.p`); `instances.json`; `images/` or `train2014/`"
    oracle = "henghuiding/gRefCOCO `mdetr/datasets/refexp.py`"
    pictures_usual = PICTURES

    split: str = setting("val", "val, testA, testB or train, or several: testA+testB")
    prompt: str = setting("Find all of: {phrase}.", "the question; {phrase} is the sentence")
    min_confidence: float = setting(0.0, "boxes with less do not count")

    def read(self) -> Iterator[Item]:
        pictures = self.pictures()
        for said in sentences(self.folder, "grefs", "", self.split, self.faults):
            picture = pictures.find(said.image.get("file_name"), said.image.get("width"), said.image.get("height"))
            if picture is not None:
                question = words(self.prompt, phrase=said.text)
                yield Item(
                    id=said.id,
                    asks=(self.ask(picture, question, said.id, said.text),),
                    truth={
                        "image": picture.file,
                        "phrase": said.text,
                        "boxes": [list(thing.box) for thing in said.things],
                    },
                    group=said.split,
                )

    def judge(self, item: Item, replies: Sequence[Reply]) -> Row:
        (reply,) = replies
        true = item.truth["boxes"]
        sure = [
            box
            for box, confidence in zip(reply.parsed.boxes, confidences_of(reply), strict=True)
            if confidence >= self.min_confidence
        ]
        told = len(sure) + sum(reply.parsed.errors.values()) + (not final_answer(reply.text))
        f1 = f1_of_boxes(overlaps(sure, true), told, len(true))
        f1_giou = f1_of_boxes(generalised_overlaps(sure, true), told, len(true))
        return row_of(
            item,
            replies,
            right=f1 >= 1.0,
            numbers={"f1": f1, "f1_giou": f1_giou, "told": float(told), "found": float(len(sure))},
        )

    def numbers(self, rows: Sequence[Row]) -> dict:
        empty = [row for row in rows if not row.truth["boxes"]]
        meant = [row for row in rows if row.truth["boxes"]]
        several = [row for row in meant if len(row.truth["boxes"]) > 1]
        return {
            "precision_f1": mean(bool(row.right) for row in rows),
            "interval": picture_interval(rows, [float(bool(row.right)) for row in rows]),
            "precision_f1_giou": mean(row.numbers["f1_giou"] >= 1.0 for row in rows),
            "n_acc": mean(row.numbers["told"] == 0 for row in empty),
            "t_acc": mean(row.numbers["found"] > 0 for row in meant),
            "several": {"n": len(several), "precision_f1": mean(bool(row.right) for row in several)},
            "mean_f1": mean(row.numbers["f1"] for row in rows),
        }
