"""How well a model points: referring, finding all, saying that a thing is not there, and the boxes of its steps.

The first box of the final answer is scored, whatever else was written: taking the best of several boxes, as some
evaluators do, measures an oracle. Numbers are read in the dialect's frame only. Of several pictures it is that of the
picture in which the true boxes lie, and an answer that calls another one by its number is wrong, whatever its boxes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from lynx_moe.data import Record, final_answer
from lynx_moe.evaluation.answered import MEASURES, Answered, share
from lynx_moe.evaluation.matching import THRESHOLD, matched
from lynx_moe.evaluation.retention import same_words
from lynx_moe.grounding import iou

# What denies, in English and in Japanese; in another language only the true answer's own words do.
NEGATION = re.compile(
    r"\b(?:no|not|none|nothing|never|neither|without|cannot)\b|n['’]t\b|ない|ません|なし", re.IGNORECASE
)
LISTING_TASKS = ("find_all",)  # tasks whose answer is a set of boxes, also when the set has one


def is_listing(record: Record) -> bool:
    asks = record.is_grounding and bool(record.boxes) and not record.speaks_masks
    return asks and (record.task in LISTING_TASKS or len(record.boxes) > 1)


def is_referring(record: Record) -> bool:
    asks = record.is_grounding and len(record.boxes) == 1 and not record.speaks_masks
    return asks and not is_listing(record)


def is_absent(record: Record) -> bool:
    """The thing asked for is not in the picture: no box to give, neither in the answer nor on the way to it."""
    return record.is_grounding and not (record.boxes or record.steps or record.shows_places)


def says_none(answered: Answered) -> bool:
    """The answer denies it, or says just what the true one does, and nothing in it is or looks like a place."""
    said = final_answer(answered.text)
    denies = bool(NEGATION.search(said)) or same_words(said, answered.record.answer)
    read = answered.parsed
    places = read.boxes or read.points or read.polygons or read.mask_words or answered.masks
    return denies and not places and not read.errors


def first_box_iou(answered: Answered) -> float:
    """IoU of the answer's first box with the one true box; 0.0 without a readable box, or in another picture."""
    boxes = answered.parsed.boxes
    return iou(boxes[0], answered.record.boxes[0]) if boxes and not answered.in_another_picture else 0.0


def hits_of(answered: Answered) -> int:
    """True boxes that the answer has, each found once; none where it speaks of another picture."""
    return 0 if answered.in_another_picture else matched(answered.parsed.boxes, answered.record.boxes)


@MEASURES.register("grounding")
def grounding(answered: Sequence[Answered]) -> dict | None:
    """Numbers over the grounding records; None when there are none.

    Returns:
        `acc50` and `mean_iou` over referring records (`n`), the same by task, `no_box` (no readable box in the answer);
        `find_all` with precision, recall, F1 and the share of repeated boxes; `absent` with how often the answer holds
        nothing like a box; `steps` with the share of true step boxes that were hit; `in_words` with exact matches of
        grounding answers that are words, by task, and by the form of the visual prompts in the question (`by_form`,
        empty without any); `unreadable` (share of all answers with at least one reading error) and
        `errors` by kind; `other_picture` counts answers that call the wrong one of several pictures, or none.
    """
    ours = [a for a in answered if a.record.is_grounding]
    if not ours:
        return None
    referring = [a for a in ours if is_referring(a.record)]
    errors: Counter[str] = Counter()
    for a in ours:
        errors.update(a.parsed.errors)
        if a.record.boxes and not a.record.speaks_masks and len(a.parsed.boxes) != len(a.record.boxes):
            errors["wrong_count"] += 1
        if a.in_another_picture:
            errors["other_picture"] += 1
    return {
        **_referring(referring),
        "by_task": {task: _referring([a for a in referring if a.record.task == task]) for task in _tasks(referring)},
        "find_all": _find_all([a for a in ours if is_listing(a.record)]),
        "absent": _absent([a for a in ours if is_absent(a.record)]),
        "steps": _steps([a for a in ours if any(step.boxes for step in a.record.steps)]),
        "in_words": _in_words([a for a in ours if not a.record.boxes and not is_absent(a.record)]),
        "unreadable": share(sum(bool(a.parsed.errors) for a in ours), len(ours)),
        "errors": dict(sorted(errors.items())),
    }


def _tasks(answered: Iterable[Answered]) -> list[str]:
    return sorted({a.record.task for a in answered})


def _referring(answered: Sequence[Answered]) -> dict:
    overlaps = [first_box_iou(a) for a in answered]
    return {
        "n": len(answered),
        "acc50": share(sum(value >= THRESHOLD for value in overlaps), len(overlaps)),
        "mean_iou": share(sum(overlaps), len(overlaps)),
        "no_box": share(sum(not a.parsed.boxes for a in answered), len(answered)),
    }


def _find_all(answered: Sequence[Answered]) -> dict | None:
    if not answered:
        return None
    hits = found = true = repeated = 0
    for a in answered:
        hits += hits_of(a)
        found += len(a.parsed.boxes)
        true += len(a.record.boxes)
        repeated += len(a.parsed.boxes) - len({box.xyxy for box in a.parsed.boxes})
    precision, recall = share(hits, found), share(hits, true)
    return {
        "n": len(answered),
        "precision": precision,
        "recall": recall,
        "f1": 2 * hits / (found + true),
        "repeated": share(repeated, found),
        "right_count": share(sum(len(a.parsed.boxes) == len(a.record.boxes) for a in answered), len(answered)),
    }


def _absent(answered: Sequence[Answered]) -> dict | None:
    if not answered:
        return None
    return {"n": len(answered), "says_none": share(sum(map(says_none, answered)), len(answered))}


def _steps(answered: Sequence[Answered]) -> dict | None:
    if not answered:
        return None
    true = sum(len(step.boxes) for a in answered for step in a.record.steps)
    return {"n": len(answered), "acc50": share(sum(a.step_hits for a in answered), true)}


def _in_words(answered: Sequence[Answered]) -> dict | None:
    if not answered:
        return None
    tasks, forms = _tasks(answered), sorted({form for a in answered for form in a.shown})
    return {
        **_exact(answered),
        "by_task": {task: _exact([a for a in answered if a.record.task == task]) for task in tasks},
        "by_form": {form: _exact([a for a in answered if form in a.shown]) for form in forms},
    }


def _exact(answered: Sequence[Answered]) -> dict:
    right = sum(same_words(final_answer(a.text), a.record.answer) for a in answered)
    return {"n": len(answered), "accuracy": share(right, len(answered))}
