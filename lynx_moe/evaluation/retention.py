"""What is left of the base's skill: exact answers to questions that are not about pointing, sample by sample.

Averages hide exchanges: ten answers lost and ten others won look like nothing happened. So two evaluations are
compared pair by pair, with every flip named and McNemar's exact test on them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from lynx_moe.data import final_answer
from lynx_moe.errors import ConfigError
from lynx_moe.evaluation.answered import MEASURES, Answered, share

NUMBERS = "zero one two three four five six seven eight nine ten eleven twelve".split()
ARTICLES = {"a", "an", "the"}
WORD = re.compile(r"(?<!\w)-?\d+(?:[./]\d+)*|[^\W_]+")


def normalise(answer: str) -> str:
    """An answer as it counts: lower case, no punctuation, no articles, small numbers as digits (our choice, after VQA).

    >>> normalise("The Three cats.")
    '3 cats'
    """
    words = [word for word in WORD.findall(answer.lower()) if word not in ARTICLES]
    return " ".join(str(NUMBERS.index(word)) if word in NUMBERS else word for word in words)


def is_right(answered: Answered) -> bool:
    """Whether the final answer says what the record says, in the same words; one that says nothing never does."""
    return same_words(final_answer(answered.text), answered.record.answer)


def same_words(answer: str, truth: str) -> bool:
    """Whether two answers are one after `normalise`, or, where that leaves nothing of the true one ("A"), as they are.

    >>> same_words("The cat.", "a cat"), same_words("", "A"), same_words("the", "A"), same_words("a", "A")
    (True, False, False, True)
    """
    if normalise(truth):
        return normalise(answer) == normalise(truth)
    return bool(answer.strip()) and answer.strip().casefold() == truth.strip().casefold()


@MEASURES.register("retention")
def retention(answered: Sequence[Answered]) -> dict | None:
    """Accuracy over understanding records, and by task; None when there are none."""
    ours = [a for a in answered if not a.record.is_grounding]
    if not ours:
        return None
    right = {a.record.id: is_right(a) for a in ours}
    by_task = {}
    for task in sorted({a.record.task for a in ours}):
        of_task = [right[a.record.id] for a in ours if a.record.task == task]
        by_task[task] = {"n": len(of_task), "accuracy": share(sum(of_task), len(of_task))}
    return {"n": len(ours), "accuracy": share(sum(is_right(a) for a in ours), len(ours)), "by_task": by_task}


def compare(before: dict, after: dict, *, kind: str | None = "understanding") -> dict:
    """Two results of `evaluate` on the same records, pair by pair.

    Args:
        before: of the base.
        after: of the trained model.
        kind: compare records of this kind; None compares all.

    Returns:
        `n`; `lost` and `won`, how many right answers turned wrong and the other way round; `same_text`, the share of
        answers that are equal to the letter; `mcnemar_p`; and `flips`, one entry per changed verdict.

    Raises:
        ConfigError: the results are not of the same records.
    """
    old, new = ({s["id"]: s for s in result["samples"] if kind in (None, s["kind"])} for result in (before, after))
    if old.keys() != new.keys():
        raise ConfigError(
            f"{len(old.keys() ^ new.keys())} records are in one result and not in the other",
            why="answers can only be compared pair by pair",
            fix="evaluate both models on the same folder, split and limit",
        )
    flips = [
        {
            "id": key,
            "task": old[key]["task"],
            "question": old[key]["question"],
            "truth": old[key]["truth"],
            "before": old[key]["answer"],
            "after": new[key]["answer"],
            "change": "lost" if old[key]["right"] else "won",
        }
        for key in old
        if old[key]["right"] != new[key]["right"]
    ]
    lost = sum(flip["change"] == "lost" for flip in flips)
    return {
        "n": len(old),
        "lost": lost,
        "won": len(flips) - lost,
        "same_text": share(sum(old[key]["answer"] == new[key]["answer"] for key in old), len(old)),
        "mcnemar_p": mcnemar_p(lost, len(flips) - lost),
        "flips": flips,
    }


def mcnemar_p(lost: int, won: int) -> float:
    """Exact two-sided McNemar test: how likely flips at least this uneven are when either direction is as likely.

    >>> mcnemar_p(0, 5), mcnemar_p(3, 3)
    (0.0625, 1.0)
    """
    flips = lost + won
    ways = total = 1  # to choose k of the flips; of k and fewer. Whole numbers, so exact for any number of flips.
    for k in range(1, min(lost, won) + 1):
        ways = ways * (flips - k + 1) // k
        total += ways
    return min(1.0, 2 * total / 2**flips)
