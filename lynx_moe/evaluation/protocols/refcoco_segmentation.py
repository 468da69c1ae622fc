"""Referring segmentation on RefCOCO, RefCOCO+ and RefCOCOg."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lynx_moe.evaluation.metrics.coco import mask_of
from lynx_moe.evaluation.metrics.segmentation import (
    LEVELS,
    cumulative_iou,
    general_iou,
    mask_areas,
    precision_at,
)
from lynx_moe.evaluation.protocols.base import PROTOCOLS, Item, Reply, Row
from lynx_moe.evaluation.protocols.grounding import GroundingProtocol, mean, ratio_interval, row_of, setting, words
from lynx_moe.evaluation.protocols.refer_files import PICTURES, sentences
from lynx_moe.evaluation.protocols.reply_mask import reply_mask


@dataclass(kw_only=True)
class SegmentationProtocol(GroundingProtocol):
    """Base of protocols whose truth is one mask: `truth` has COCO's `segmentation` and the picture's `size`."""

    headline = "ciou"
    oracle = "LAVT `test.py`, GRES `refer_evaluation.py`"

    from_box: bool = setting(False, "take the inside of the first box where a reply has neither mask nor polygon")

    def judge(self, item: Item, replies: Sequence[Reply]) -> Row:
        size = tuple(item.truth["size"])
        found_HW = reply_mask(replies[0], size, self.from_box)
        shared, union = mask_areas(found_HW, mask_of(item.truth["segmentation"], size))
        outlined = bool(replies[0].parsed.polygons) or any(replies[0].masks)
        of_box = float(self.from_box and not outlined and bool(replies[0].parsed.boxes))
        return row_of(
            item,
            replies,
            right=union > 0 and shared / union >= LEVELS[0],
            numbers={
                "shared": float(shared),
                "union": float(union),
                "of_box": of_box,
                "empty": float(not found_HW.any()),
            },
        )

    def numbers(self, rows: Sequence[Row]) -> dict:
        shared, union = ([row.numbers[key] for row in rows] for key in ("shared", "union"))
        return {
            "ciou": cumulative_iou(shared, union),
            "interval": ratio_interval(rows, shared, union),
            "giou": general_iou(shared, union),
            **{f"precision_{level}": precision_at(shared, union, level) for level in LEVELS},
            "masks_of_boxes": mean(row.numbers["of_box"] for row in rows),
            "no_mask": mean(row.numbers["empty"] for row in rows),
        }


@PROTOCOLS.register("refcoco_segmentation")
@dataclass(kw_only=True)
class RefCocoSegmentation(SegmentationProtocol):
    """cIoU, gIoU and Pr@X of masks, over the sentences of RefCOCO, RefCOCO+ or RefCOCOg, by split.

    A reply's mask is what a mask head drew, or its polygons, where the family writes outlines; with `from_box` the
    inside of its first box, and `masks_of_boxes` says for how many. An answer without a mask has an IoU of 0.
    """

    name = "refcoco_segmentation"
    citation = "Yu et al., ECCV 2016; Mao et al., CVPR 2016; cIoU and gIoU as in Lai et al., CVPR 2024 (LISA)"
    files = "`refs(unc).p`, `refs(google).p`, `refs(umd).p` or `.json`; `instances.json`; `images/` or `train2014/`"
    pictures_usual = PICTURES

    split: str = setting("val", "val, testA, testB, test or train, or several: testA+testB")
    split_by: str = setting("", "who divided the data: unc, google or umd; empty: the only file there is")
    prompt: str = setting("Segment {phrase}.", "the question; {phrase} is the sentence")

    def read(self) -> Iterator[Item]:
        pictures = self.pictures()
        for said in sentences(self.folder, "refs", self.split_by, self.split, self.faults, outlines=True):
            if len(said.things) != 1:
                self.faults["sentence about no object or several"] += 1
                continue
            picture = pictures.find(said.image.get("file_name"), said.image.get("width"), said.image.get("height"))
            if picture is None:
                continue
            outline = said.things[0].segmentation
            if not drawable(outline, picture.size):
                self.faults["object without a mask"] += 1
                continue
            yield Item(
                id=said.id,
                asks=(self.ask(picture, words(self.prompt, phrase=said.text), said.id, said.text),),
                truth={
                    "image": picture.file,
                    "size": list(picture.size),
                    "phrase": said.text,
                    "segmentation": outline,
                    "box": list(said.things[0].box),
                },
                group=said.split,
            )


def drawable(outline: list | dict | None, size: tuple[int, int]) -> bool:
    """Whether a segmentation is a mask of a picture of that size, with anything in it."""
    try:
        return bool(outline) and bool(mask_of(outline, size).any())
    except (ValueError, TypeError):
        return False
