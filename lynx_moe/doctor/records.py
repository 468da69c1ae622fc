"""Looking at records before anybody learns from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from lynx_moe.data import Record, RecordSet, target_text
from lynx_moe.data.prompts import final_answer, frame
from lynx_moe.data.screening import Screen
from lynx_moe.doctor.findings import Findings
from lynx_moe.families.dialects import Dialect
from lynx_moe.families.dialects.base import PLACEHOLDER
from lynx_moe.grounding import Box, iou
from lynx_moe.grounding.outlines import likeness

AT_THE_EDGE = 1.0  # pixels that a box may reach out of its picture: annotation tools round
LEAST_VISIBLE = 0.5  # share of a box's area
LEAST_LIKE = 0.3  # IoU of masks with their outlines: where these have four corners, half is much for some things
MOST_IDS = 1_000_000


def look_at_records(records: RecordSet, positions: Sequence[int], screen: Screen, findings: Findings) -> None:
    """Notes whatever is wrong with the records at `positions`, and ids that occur twice among all of them."""
    findings.checked, findings.of = len(positions), len(records)
    for position in positions:
        look_at_record(records[position], screen, findings)
    ids = records.column("id", range(min(len(records), MOST_IDS)))
    for name, times in Counter(ids).items():
        if times > 1:
            findings.note("duplicate_id", name, f"{times} times")


def look_at_record(record: Record, screen: Screen, findings: Findings) -> None:
    if not record.answer.strip():
        findings.note("empty_answer", record.id)
    token = screen.builder.image_token
    if token in record.question or token in record.answer or any(token in step.text for step in record.steps):
        findings.note("picture_token", record.id, record.question)
        return
    found = screen.look(record)
    if not isinstance(found, list):
        findings.note(found[0], record.id, found[1].message)
    boxes = [(record.picture, box) for box in record.boxes]
    boxes += [(step.picture, box) for step in record.steps for box in step.boxes]
    outside = [box for picture, box in boxes if reaches_out(box, frame(record, picture))]
    if outside:
        findings.note("outside", record.id, str(list(outside[0])))
    if isinstance(found, list):
        look_at_boxes(record, screen, findings)
        if screen.builder.tokenizer.unk_token_id in found[-1].ids[found[-1].answer_at :].tolist():
            findings.note("unknown_token", record.id, target_text(record, screen.builder.dialect))


def reaches_out(box: Sequence[float], size: tuple[int, int]) -> bool:
    if len(box) != 4:
        return False  # no box at all, which is another finding
    x1, y1, x2, y2 = box
    return min(x1, y1) < -AT_THE_EDGE or x2 > size[0] + AT_THE_EDGE or y2 > size[1] + AT_THE_EDGE


def look_at_boxes(record: Record, screen: Screen, findings: Findings) -> None:
    """Whether the boxes are mostly visible, and what the target's text says of them when it is read."""
    dialect = screen.builder.dialect
    size = frame(record, record.picture)
    visible = [dialect.geometry.visible(Box(*box), size) for box in record.boxes]
    areas = [Box(*box).clip(size).area for box in record.boxes]
    if any(part.area < LEAST_VISIBLE * whole for part, whole in zip(visible, areas, strict=True)):
        findings.note("half_hidden", record.id)
    if record.speaks_masks:
        look_at_masks(record, dialect, findings)
        return
    if record.steps or not record.boxes:
        return
    read = dialect.decode(target_text(record, dialect), size).boxes
    # Not closer than the spelling allows: a box as small as one quantum may move by its whole size.
    slack = 1.5 * max(dialect.resolution(size))
    far = len(read) != len(visible) or any(
        max(abs(a - b) for a, b in zip(one, other, strict=True)) > slack and iou(one, other) < 0.5
        for one, other in zip(read, visible, strict=True)
    )
    if far:
        findings.note("not_read_back", record.id, target_text(record, dialect))


def look_at_masks(record: Record, dialect: Dialect, findings: Findings) -> None:
    """Whether the masks of the answer have pixels, and whether outlines that are read back cover about the same."""
    spoken = {int(k) for kind, k in PLACEHOLDER.findall(record.answer) if kind == "mask"}
    masks = [record.masks[k].array() for k in sorted(spoken)]
    if not all(mask.any() for mask in masks):
        findings.note("empty_mask", record.id)
    if dialect.mask_word is None:
        said = final_answer(target_text(record, dialect))
        read = dialect.decode(said, frame(record, record.picture)).polygons
        if likeness(read, np.any(masks, axis=0)) < LEAST_LIKE:
            findings.note("not_read_back", record.id, said)
