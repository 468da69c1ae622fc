"""How sure a model is of a box: by the probabilities of the tokens that write it, or by how often it says it again."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lynx_moe.data import final_answer
from lynx_moe.evaluation.generate import Generated
from lynx_moe.evaluation.token_text import token_spans
from lynx_moe.families.dialects import Dialect, Parsed
from lynx_moe.families.dialects.grammar import NUMBER
from lynx_moe.grounding import Box, iou

SAME = 0.5  # IoU from which on two boxes are one


def box_confidences(generated: Generated, parsed: Parsed, tokenizer, dialect: Dialect) -> tuple[float, ...]:
    """One number from 0 to 1 per box of `parsed`, in its order.

    The geometric mean of the probabilities of the tokens that write the box's coordinates: brackets, separators and
    labels, which a model is nearly always sure of, are left out; all of the box where its numbers cannot be made out.
    The mean makes boxes of few and of many tokens comparable; where each number is one token it is the fourth root of
    the coordinates' joint probability. Our choice.

    Args:
        generated: an answer with its log probabilities.
        parsed: how `dialect` reads `final_answer(generated.text)`.
        tokenizer: the model's.
        dialect: whose boxes they are.
    """
    if not parsed.spans:
        return ()
    shift = len(generated.text) - len(final_answer(generated.text))
    tokens = token_spans(generated.ids, generated.text, tokenizer, dialect.marks)
    logs = generated.log_probabilities
    found = []
    for begin, end in parsed.spans:
        places = _numbers(generated.text, begin + shift, end + shift, dialect)
        chosen = [log for log, span in zip(logs, tokens, strict=True) if any(_meet(span, place) for place in places)]
        found.append(math.exp(sum(chosen) / len(chosen)) if chosen else 0.0)
    return tuple(found)


def _numbers(text: str, begin: int, end: int, dialect: Dialect) -> list[tuple[int, int]]:
    """Where in `text` the numbers of the box that is written from `begin` to `end` stand."""
    found = dialect.coordinates.search(text, begin, end)
    return [match.span() for match in NUMBER.finditer(text, *found.span())] if found else [(begin, end)]


def _meet(first: tuple[int, int], second: tuple[int, int]) -> bool:
    return first[0] < second[1] and second[0] < first[1]


def agreement(boxes: Sequence[Box], samples: Sequence[Sequence[Box]], same: float = SAME) -> tuple[float, ...]:
    """For each of `boxes` the share of `samples` (other answers to the same question) that have it too.

    A sample's box is taken for at most one of `boxes`: pairs are made from the highest IoU down to `same`, as COCO's
    evaluation matches, but without regard to labels. Our choice. 0.0 where there are no samples.
    """
    counts = [0] * len(boxes)
    for sample in samples:
        pairs = [(iou(box, other), k, n) for k, box in enumerate(boxes) for n, other in enumerate(sample)]
        had, taken = set(), set()
        for overlap, k, n in sorted(pairs, key=lambda pair: -pair[0]):
            if overlap >= same and k not in had and n not in taken:
                had.add(k)
                taken.add(n)
                counts[k] += 1
    return tuple(count / len(samples) if samples else 0.0 for count in counts)
