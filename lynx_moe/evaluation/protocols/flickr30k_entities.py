"""Flickr30k Entities: the phrases of captions, each with the boxes of what it means."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lynx_moe.errors import RecordError
from lynx_moe.evaluation.metrics.overlap import overlaps
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
from synth.sources.safe_xml import XML_FAULTS, number, parse

THRESHOLD = 0.5
PICTURES = ("flickr30k-images", "flickr30k_images", "images")
_PHRASE = re.compile(r"\[/EN#(\d+)((?:/[\w-]+)+) ([^\]]*)\]")


@PROTOCOLS.register("flickr30k_entities")
@dataclass(kw_only=True)
class Flickr30kEntities(GroundingProtocol):
    """R@1 of phrase grounding, in both published conventions, by type of phrase.

    `recall_any`: the first box overlaps any box of the phrase by at least 0.5. `recall_merged`: it so overlaps the one
    box around all of them. Coordinates are taken as the files have them, as MDETR takes them. Phrases without a box
    (scene, not visual) are not asked about. Each phrase is asked for by itself; MDETR reads the whole sentence at
    once.
    """

    name = "flickr30k_entities"
    citation = "Plummer et al., ICCV 2015; any-box and merged-box as in Kamath et al., ICCV 2021 (MDETR)"
    headline = "recall_any"
    boxes_in = ("boxes",)
    files = "`Annotations/*.xml`, `Sentences/*.txt`, `<split>.txt`, `flickr30k-images/`"
    oracle = "MDETR `datasets/flickr_eval.py`"
    pictures_usual = PICTURES

    split: str = setting("test", "which list of pictures: test, val or train")
    prompt: str = setting(
        "Find {phrase}.", "the question; {phrase} is the phrase, {sentence} the caption that it stands in"
    )

    def read(self) -> Iterator[Item]:
        pictures = self.pictures()
        for name in split_list(self.folder / f"{self.split}.txt", self.faults):
            boxes = self._boxes(name)
            lines = self._lines(name)
            if boxes is None or lines is None:
                self.faults["unreadable annotation or sentence file"] += 1
                continue
            picture = pictures.find(f"{name}.jpg")
            if picture is None:
                continue
            for row, line in enumerate(lines):
                sentence = _PHRASE.sub(lambda match: match[3], line)
                for k, match in enumerate(_PHRASE.finditer(line)):
                    if match[1] not in boxes:
                        continue  # not visual, or of the scene as a whole
                    key = f"{name}-{row}-{k}"
                    question = words(self.prompt, {"sentence": sentence}, phrase=match[3])
                    yield Item(
                        id=key,
                        asks=(self.ask(picture, question, key, match[3]),),
                        truth={
                            "image": picture.file,
                            "phrase": match[3],
                            "types": match[2].strip("/").split("/"),
                            "boxes": boxes[match[1]],
                        },
                    )

    def judge(self, item: Item, replies: Sequence[Reply]) -> Row:
        box, true = first_box(replies[0]), item.truth["boxes"]
        found = [box] if box else []
        any_box = float(overlaps(found, true).max(initial=0.0))
        merged = float(overlaps(found, [merged_box(true)]).max(initial=0.0))
        return row_of(item, replies, right=any_box >= THRESHOLD, numbers={"iou_any": any_box, "iou_merged": merged})

    def numbers(self, rows: Sequence[Row]) -> dict:
        return {
            "recall_any": mean(bool(row.right) for row in rows),
            "interval": picture_interval(rows, [float(bool(row.right)) for row in rows]),
            "recall_merged": mean(row.numbers["iou_merged"] >= THRESHOLD for row in rows),
            "no_box": mean(not row.boxes for row in rows),
        }

    def groups_of(self, row: Row) -> Sequence[str]:
        return sorted(set(row.truth["types"]))

    def _boxes(self, name: str) -> dict[str, list[list[float]]] | None:
        """The boxes of each entity; None when the file cannot be read."""
        try:
            root = parse(self.folder / "Annotations" / f"{name}.xml")
        except XML_FAULTS:
            return None
        boxes: dict[str, list[list[float]]] = {}
        for node in root.iterfind("object"):
            if node.find("bndbox") is None:
                continue
            sides = [number(node, f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")]
            if None in sides or sides[2] <= sides[0] or sides[3] <= sides[1]:
                self.faults["object without a usable box"] += 1
                continue
            for entity in node.iterfind("name"):
                boxes.setdefault((entity.text or "").strip(), []).append(sides)
        return boxes

    def _lines(self, name: str) -> list[str] | None:
        try:
            text = (self.folder / "Sentences" / f"{name}.txt").read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            return None
        return [line for line in text.split("\n") if line.strip()]


def split_list(path: Path, faults: Counter[str]) -> list[str]:
    """The names of pictures in a list, each once and none with a folder in it; raises RecordError without the file."""
    try:
        names = path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as problem:
        raise RecordError(
            f"cannot read {path}", why=str(problem), fix="split=NAME of a list in the folder"
        ) from problem
    plain = [name for name in names if Path(name).name == name]
    once = list(dict.fromkeys(plain))
    for kind, times in (("path leaves the folder", len(names) - len(plain)), ("duplicate id", len(plain) - len(once))):
        if times:
            faults[kind] += times
    return once


def merged_box(boxes: Sequence[Sequence[float]]) -> list[float]:
    """The smallest box around all."""
    x1, y1, x2, y2 = zip(*boxes, strict=True)
    return [min(x1), min(y1), max(x2), max(y2)]
