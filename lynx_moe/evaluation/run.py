"""One call that asks a model every record and scores its answers by every protocol."""

from __future__ import annotations

import time
from collections.abc import Sequence

from lynx_moe.data import Record, SampleBuilder, question_text, target_text
from lynx_moe.data.dataset import askable
from lynx_moe.errors import DialectError
from lynx_moe.evaluation.answered import MEASURES, Answered
from lynx_moe.evaluation.generate import generate_answers
from lynx_moe.evaluation.judging import overlap_of, verdict
from lynx_moe.evaluation.spoken_masks import Masks
from lynx_moe.families.dialects import Dialect
from lynx_moe.objectives.attached import serving_heads, targets_of
from lynx_moe.objectives.prompts import shown_forms

MORE_THAN_TRUTH = 16  # tokens an answer may be longer than the longest true one


def evaluate(
    model,
    processor,
    records: Sequence[Record],
    dialect: Dialect,
    batch_size: int = 64,
    *,
    max_new_tokens: int | None = None,
    progress: bool = True,
) -> dict:
    """Ask `model` every record, score what it writes, and return plain numbers and texts that JSON can hold.

    Records whose true boxes the model cannot see (a processor that crops) are asked all the same and count as misses.

    Args:
        model: plain or with an adapter; for the base's own answers call this inside `model.disable_adapter()`.
        processor: the base's processor.
        records: what to ask; those whose question shows a box that the processor crops away are left out.
        dialect: how the model writes boxes.
        batch_size: prompts per forward.
        max_new_tokens: cut answers there; None: a little more than the longest true answer of these records has.
        progress: show a bar.

    Returns:
        One entry per protocol ("grounding", "masks", "retention"; None when no record is for it), `n`, `seconds`,
        `dialect`, and `samples`: per record what was asked, true and answered, boxes in original pixels, and whether it
        was right; of a record about several pictures also `picture`, the number of the one that its boxes lie in, from
        0; of one whose places were shown by visual prompts, and not in text, also `shown`, their forms; of one whose
        answer speaks of masks also `true_masks` and `masks`, as COCO writes them.
    """
    heads = serving_heads(model)
    builder = SampleBuilder(processor, dialect).with_targets(targets_of(heads))
    records = [record for record in records if askable(record, builder)]
    started = time.monotonic()
    limit = max_new_tokens or longest_answer(builder, records)
    answers = generate_answers(model, builder, records, batch_size=batch_size, max_new_tokens=limit, progress=progress)
    seconds = round(time.monotonic() - started, 3)
    texts, masks = [answer.text for answer in answers], [answer.masks for answer in answers]
    shown = shown_forms(heads.get("prompts"), records)
    return score(records, texts, dialect, masks, shown) | {"seconds": seconds}


def score(
    records: Sequence[Record],
    texts: Sequence[str],
    dialect: Dialect,
    masks: Sequence[Masks] | None = None,
    shown: Sequence[tuple[str, ...]] | None = None,
) -> dict:
    """What `evaluate` returns, but "seconds", for answers that are there already: `texts`, one per record, `masks` of
    the words for one in each, and the forms of the visual prompts that were `shown` with the question.
    """
    nothing = [()] * len(records)
    beside = zip(records, texts, masks or nothing, shown or nothing, strict=True)
    answered = [Answered.read(record, text, dialect, *own) for record, text, *own in beside]
    return {
        **{name: MEASURES.get(name)(answered) for name in MEASURES},
        "n": len(records),
        "dialect": dialect.name,
        "samples": [_sample(a, dialect) for a in answered],
    }


def longest_answer(builder: SampleBuilder, records: Sequence[Record]) -> int:
    """Tokens that an answer may have: a little more than the longest true one."""
    return _longest(builder, records) + MORE_THAN_TRUTH


def _longest(builder: SampleBuilder, records: Sequence[Record]) -> int:
    if not records:
        return 0
    texts = [_truth(record, builder.dialect) for record in records]
    return max(map(len, builder.tokenizer(texts, add_special_tokens=False)["input_ids"]))


def _truth(record: Record, dialect: Dialect) -> str:
    try:
        return target_text(record, dialect)
    except DialectError:
        return record.answer  # cropped away: what should be said cannot be spelled


def _question(record: Record, dialect: Dialect) -> str:
    """With its places told in text, where text can tell them all."""
    try:
        return question_text(record, dialect) if record.shows_places else record.question
    except DialectError:
        return record.question  # a mask, which only visual prompts show


def _sample(answered: Answered, dialect: Dialect) -> dict:
    record, boxes = answered.record, answered.parsed.boxes
    sample = {
        "id": record.id,
        "task": record.task,
        "kind": record.kind,
        "question": _question(record, dialect),
        "phrase": record.phrase,
        "truth": _truth(record, dialect),
        "answer": answered.text,
        "true_boxes": [list(box) for box in record.boxes],
        "boxes": [list(box.xyxy) for box in boxes],
        "errors": dict(answered.parsed.errors),
    }
    if record.more:
        sample["picture"] = record.picture
    if answered.shown:
        sample["shown"] = list(answered.shown)
    if record.speaks_masks:
        sample["true_masks"] = [mask.to_coco() for mask in record.masks if mask is not None]
        sample["masks"] = [mask and mask.to_coco() for mask in answered.masks]
    overlap = overlap_of(answered)
    return sample | ({} if overlap is None else {"iou": overlap}) | {"right": verdict(answered)}
