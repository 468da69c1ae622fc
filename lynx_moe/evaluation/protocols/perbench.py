"""PerBench-style questions about marked regions: choose an answer, or segment what is meant."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lynx_moe.data import final_answer
from lynx_moe.evaluation.protocols.base import PROTOCOLS, Item, Reply, Row, Write
from lynx_moe.evaluation.protocols.coco_tables import corners, rows_of
from lynx_moe.evaluation.protocols.grounding import mean, row_of, setting
from lynx_moe.evaluation.protocols.letters import mmbench_letter
from lynx_moe.evaluation.protocols.picture_files import Picture
from lynx_moe.evaluation.protocols.refcoco_segmentation import SegmentationProtocol, drawable

LETTERS = "ABCDEFGHIJ"


@PROTOCOLS.register("perbench")
@dataclass(kw_only=True)
class PerBench(SegmentationProtocol):
    """Accuracy on choices and cIoU, gIoU on masks, after two of PerBench's three tasks.

    Of PerBench it is known that it has captions (METEOR), choices about visual prompts (accuracy) and segmentation by
    a text with visual prompts (cIoU, gIoU); its files were not found. The file here is therefore our own (unverified
    against theirs): `perbench.json`, a list of {"id", "image", "task": "vqa" or "res", "question", "regions": [[x, y,
    width, height], ..]}, with "options" and "answer" (a letter) for vqa, and COCO's "segmentation" for res. The
    question calls region k `{region:k}`, which is shown as the box's text in the family's spelling, for want of a
    visual prompt. Letters are read by MMBench's rules. Captions are left out and counted: METEOR needs a Java program.
    `overall_without_captions` is the mean of 100 * accuracy and of 50 * (cIoU + gIoU): theirs, as far as its printed
    numbers show, has METEOR as the third term.
    """

    name = "perbench"
    citation = "Zhang et al., arXiv 2504.10465 (Pixel-SAIL); file format unverified"
    headline = "overall_without_captions"
    files = "`perbench.json` (our own form), `images/`"

    suffix: str = setting("Answer with the letter of the right option.", "said after the options of a choice")

    def read(self) -> Iterator[Item]:
        pictures = self.pictures()
        for row in rows_of(self.folder / "perbench.json", "item"):
            if not isinstance(row, dict) or not isinstance(row.get("question"), str) or "id" not in row:
                self.faults["row without id or question"] += 1
            elif row.get("task") not in ("vqa", "res"):
                self.faults[f"task {row.get('task')!r} is not measured"] += 1
            else:
                picture = pictures.find(row.get("image"))
                boxes = [corners(one) for one in row.get("regions") or ()]
                truth = None if picture is None else self._truth(row, picture)
                if None in boxes:
                    self.faults["question with a region that is no box"] += 1
                elif truth is not None:
                    yield self._item(row, picture, truth, boxes)

    def _truth(self, row: dict, picture: Picture) -> dict[str, Any] | None:
        shared = {"image": picture.file, "size": list(picture.size), "task": row["task"]}
        if row["task"] == "res":
            if drawable(row.get("segmentation"), picture.size):
                return {**shared, "segmentation": row["segmentation"]}
            self.faults["question without a mask"] += 1
            return None
        options, answer = row.get("options"), row.get("answer")
        if isinstance(options, list) and 1 < len(options) <= len(LETTERS) and answer in list(LETTERS[: len(options)]):
            return {**shared, "options": [str(one) for one in options], "answer": answer}
        self.faults["choice without options, or whose answer is none of them"] += 1
        return None

    def _item(self, row: dict, picture: Picture, truth: dict[str, Any], boxes: list) -> Item:
        question = re.sub(r"\{region:(\d+)\}", r"{box:\1}", row["question"])
        if truth["task"] == "vqa":
            options = "\n".join(f"{letter}. {one}" for letter, one in zip(LETTERS, truth["options"], strict=False))
            question = f"{question}\n{options}\n{self.suffix}"
        key = str(row["id"])
        plain = self.ask(picture, question, key)
        asked = replace(plain.record, question_boxes=tuple(boxes))
        return Item(id=key, asks=(Write(record=asked),), truth=truth, group=row["task"])

    def judge(self, item: Item, replies: Sequence[Reply]) -> Row:
        if item.truth["task"] == "res":
            return super().judge(item, replies)
        options = dict(zip(LETTERS, item.truth["options"], strict=False))
        return row_of(
            item, replies, right=mmbench_letter(final_answer(replies[0].text), options, options) == item.truth["answer"]
        )

    def numbers(self, rows: Sequence[Row]) -> dict:
        choices = [row for row in rows if row.truth["task"] == "vqa"]
        masks = super().numbers([row for row in rows if row.truth["task"] == "res"])
        accuracy = mean(bool(row.right) for row in choices)
        overall = None
        if None not in (accuracy, masks["ciou"], masks["giou"]):
            overall = (100 * accuracy + 50 * (masks["ciou"] + masks["giou"])) / 2
        return {"overall_without_captions": overall, "accuracy": accuracy, **masks}
