"""Records of this library's own format as a protocol, with the measures that training and quickstart report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from lynx_moe.data import Record, load_records
from lynx_moe.data.records import Picture, Step
from lynx_moe.errors import RecordError
from lynx_moe.evaluation.answered import MEASURES, Answered, share, step_hits
from lynx_moe.evaluation.judging import overlap_of, verdict
from lynx_moe.evaluation.protocols.base import PROTOCOLS, Item, Protocol, Reply, Row, Write
from lynx_moe.families.dialects import Parsed
from lynx_moe.grounding import Box, Mask


@PROTOCOLS.register("records")
@dataclass
class Records(Protocol):
    """Questions of a folder that `python -m synth` wrote: pointing, and what is left of other skills.

    `right` of a referring question: IoU of the first box of at least 0.5; of one with several boxes: all found and none
    besides; of a thing that is not there: a denial, or the true answer's words, and nothing like a place; else the same
    words after normalising (our choice).
    """

    name = "records"
    citation = "our choice: lynx_moe.evaluation.grounding and retention"
    headline = "accuracy"
    boxes_in = ("boxes", "steps.boxes")

    files = "what `python -m synth` writes: `records/`, `images/`, `manifest.json`"

    folder: Path = field(metadata={"help": "folder of records"})
    split: str = field(default="val", metadata={"help": "which split"})
    faults: Counter[str] = field(default_factory=Counter, init=False, repr=False)

    def __post_init__(self) -> None:
        self.folder = Path(self.folder)

    def items(self) -> Iterator[Item]:
        self.faults.clear()
        records = load_records(self.folder, self.split)
        if not len(records):
            raise RecordError(
                f"no records of split {self.split!r} in {self.folder}",
                why="numbers over nothing mean nothing",
                fix="give a split that has some: records=FOLDER,split=train",
            )
        seen = set()
        for record in records:
            if record.id in seen:
                self.faults["duplicate id"] += 1
                continue
            seen.add(record.id)
            asks = (Write(record=record),)
            yield Item(id=record.id, asks=asks, truth=truth_of(record), group=f"{record.kind}/{record.task}")

    def judge(self, item: Item, replies: Sequence[Reply]) -> Row:
        reply = replies[0]
        record = record_of(item.id, item.truth)
        answered = Answered(record, reply.text, reply.parsed, step_hits(record, reply.steps), reply.masks)
        overlap = overlap_of(answered)
        return Row(
            id=item.id,
            group=item.group,
            asked=[item.asks[0].record.question],
            truth=item.truth,
            answers=[reply.text],
            boxes=[list(box.xyxy) for box in reply.parsed.boxes],
            confidences=list(reply.confidences),
            errors=dict(reply.parsed.errors),
            right=verdict(answered),
            numbers={"step_hits": answered.step_hits, "points": len(reply.parsed.points)}
            | ({} if overlap is None else {"iou": overlap})
            | ({"masks": [mask and mask.to_coco() for mask in reply.masks]} if reply.masks else {}),
        )

    def summarise(self, rows: Sequence[Row]) -> dict:
        answered = [answered_of(row) for row in rows]
        groups: dict[str, list[bool]] = {}
        for row in rows:
            groups.setdefault(row.group, []).append(row.right)
        return {
            "n": len(rows),
            "accuracy": share(sum(row.right for row in rows), len(rows)),
            "by_group": {
                name: {"n": len(right), "accuracy": share(sum(right), len(right))}
                for name, right in sorted(groups.items())
            },
            **{name: MEASURES.get(name)(answered) for name in MEASURES},
        }


def truth_of(record: Record) -> dict:
    """All of a record that judging an answer to it needs, as JSON holds it."""
    return {
        "kind": record.kind,
        "task": record.task,
        "answer": record.answer,
        "boxes": [list(box) for box in record.boxes],
        "sizes": [list(size) for size in record.sizes],
        "picture": record.picture,
        "shows_places": record.shows_places,
        "steps": [{"boxes": [list(box) for box in step.boxes], "picture": step.picture} for step in record.steps],
    } | ({"masks": [mask and mask.to_coco() for mask in record.masks]} if record.speaks_masks else {})


def record_of(name: str, truth: dict) -> Record:
    """A record that is judged like the one `truth` is of; it has no picture and no words to ask."""
    sizes = [tuple(size) for size in truth["sizes"]]
    return Record(
        id=name,
        question="",
        answer=truth["answer"],
        kind=truth["kind"],
        task=truth["task"],
        boxes=tuple(map(tuple, truth["boxes"])),
        # Of a place that the question shows only that it does counts here.
        question_points=((0.0, 0.0),) if truth["shows_places"] else (),
        steps=tuple(Step("", tuple(map(tuple, step["boxes"])), picture=step["picture"]) for step in truth["steps"]),
        size=sizes[0] if sizes else None,
        more=tuple(Picture("", size, no_picture) for size in sizes[1:]),
        picture=truth["picture"],
        masks=tuple(mask and Mask.of_coco(mask) for mask in truth.get("masks", ())),
    )


def answered_of(row: Row) -> Answered:
    points = [(0.0, 0.0)] * int(row.numbers["points"])  # that there are some is all that counts
    parsed = Parsed(boxes=[Box(*box) for box in row.boxes], points=points, errors=Counter(row.errors))
    masks = tuple(mask and Mask.of_coco(mask) for mask in row.numbers.get("masks", ()))
    return Answered(record_of(row.id, row.truth), row.answers[0], parsed, int(row.numbers["step_hits"]), masks)


def no_picture() -> Image.Image:
    raise RecordError("a row holds no picture", why="it keeps numbers and texts alone", fix="open the records")
