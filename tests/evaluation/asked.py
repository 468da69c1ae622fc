"""What tests of the run ask: a folder of records, a protocol of texts to score, and a small scorer that looks."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

import synth
from lynx_moe.evaluation.asking import Asker
from lynx_moe.evaluation.protocols.base import Item, Protocol, Reply, Row, Score
from lynx_moe.families.dialects import get_dialect
from tests.tiny import tiny_llava_with_processor


def write_records(folder: Path, size: int = 4, tasks: Sequence[str] = ("find_one", "count", "find_all")) -> Path:
    synth.make(synth.Settings(out=str(folder), task=list(tasks), size=size, split="val"))
    return folder


def tiny_asker(**settings) -> Asker:
    model, processor = tiny_llava_with_processor()
    return Asker(
        model, processor, get_dialect("llava", processor), **{"batch_size": 2, "max_new_tokens": 6, **settings}
    )


def brightness_scorer(asks: Sequence[Score]) -> list[float]:
    """How well a colour's name fits the mean colour of the picture: minus the distance to it."""
    colours = {"red": (255, 0, 0), "green": (0, 128, 0), "blue": (0, 0, 255)}
    means = [np.asarray(ask.load().convert("RGB"), dtype=float).mean((0, 1)) for ask in asks]
    return [-float(np.abs(mean - colours[ask.text]).sum()) for mean, ask in zip(means, asks, strict=True)]


@dataclass
class Choices(Protocol):
    """Two texts for a picture: the first must score higher. Read from choices.json: id, picture, right, wrong."""

    name = "choices"
    citation = "a test"
    headline = "accuracy"

    folder: Path
    strict: bool = True
    faults: Counter[str] = field(default_factory=Counter)

    def items(self) -> Iterator[Item]:
        for row in json.loads((self.folder / "choices.json").read_text()):
            asks = tuple(
                Score(image_id=row["picture"], load=lambda row=row: Image.open(self.folder / row["picture"]), text=text)
                for text in (row["right"], row["wrong"])
            )
            yield Item(id=row["id"], asks=asks, truth={"label": row["right"]}, group=row["right"])

    def judge(self, item: Item, replies: Sequence[Reply]) -> Row:
        scores = [reply.score for reply in replies]
        right = scores[0] > scores[1] if self.strict else scores[0] >= scores[1]
        return Row(id=item.id, group=item.group, truth=item.truth, scores=scores, right=right)

    def summarise(self, rows: Sequence[Row]) -> dict:
        return {"n": len(rows), "accuracy": sum(row.right for row in rows) / len(rows) if rows else None}


def write_choices(folder: Path, entries: Sequence[tuple[str, str, str, str]]) -> Path:
    """`entries`: id, the picture's true colour or "" for a file that is no picture, the right and the wrong text."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for name, colour, right, wrong in entries:
        picture = folder / f"{name}.png"
        if colour:
            Image.new("RGB", (24, 16), colour).save(picture)
        else:
            picture.write_bytes(b"not a picture")
        rows.append({"id": name, "picture": picture.name, "right": right, "wrong": wrong})
    (folder / "choices.json").write_text(json.dumps(rows))
    return folder
