"""The masks that an answer speaks of, by the word for one, read off the states that its tokens had."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

from lynx_moe.data import Record
from lynx_moe.data.prompts import STEP
from lynx_moe.evaluation.token_text import ending_token
from lynx_moe.families.dialects import Dialect, Parsed
from lynx_moe.families.picture_grid import picture_grid
from lynx_moe.grounding import Mask
from lynx_moe.grounding.mask_cells import from_cells
from lynx_moe.grounding.outlines import drawn
from lynx_moe.objectives.masks import AnswerStates

Masks = tuple[Mask | None, ...]


def spoken_masks(
    states: AnswerStates,
    processor: Any,
    dialect: Dialect,
    records: Sequence[Record],
    answers: Sequence[tuple[str, Sequence[int]]],
) -> list[Masks]:
    """For each answer a mask for each of its words for one, in pixels of the picture; None where there is no telling.

    A word is taken to speak of the picture that its record's boxes lie in; in a step, those of that step.

    Args:
        states: what the head saw while the batch was answered.
        records: of the batch, in its order. answers: text and tokens of each.
    """
    words = [word for row, answer in enumerate(answers) for word in _words(row, answer, processor, dialect, records)]
    found: list[list[Mask | None]] = [[] for _ in answers]
    window = dialect.geometry.window
    if states.head.tiles:  # the processor has to be asked, which takes as long as some answers: once per size
        window = cache(lambda size: picture_grid(processor, size, True).window)
    for (row, _, picture), cells in zip(words, states.cells(words) if words else (), strict=True):
        size = records[row].sizes[picture] if cells is not None else None
        whole = None if size is None else from_cells(cells, window(size), size)
        found[row].append(None if whole is None else Mask.of_array(whole))
    return [tuple(masks) for masks in found]


def _words(
    row: int, answer: tuple[str, Sequence[int]], processor: Any, dialect: Dialect, records: Sequence[Record]
) -> list[tuple[int, int, int]]:
    """Of each word for a mask: its row, the token that ends it, and the picture that it is taken to be of."""
    text, ids = answer
    ends = [found.end() for found in re.finditer(re.escape(dialect.mask_word), text)] if dialect.mask_word else []
    if not ends:
        return []
    parts = [step.start() for step in STEP.finditer(text)]
    record, found = records[row], []
    for end in ends:
        token = ending_token(ids, text, end, processor.tokenizer, dialect.marks)
        part = sum(start < end for start in parts)  # counted from 1; the last is the answer
        in_step = 0 < part < len(parts) and part <= len(record.steps)
        found.append((row, token, record.steps[part - 1].picture if in_step else record.picture))
    return found


def final_masks(masks: Masks, parsed: Parsed, size: tuple[int, int]) -> Masks:
    """The masks that the final part of an answer speaks of, which reads as `parsed`, on a picture of `size` (w, h).

    One for each of its words for one, of all `masks` of the answer; or, where it has outlines and no such word, what
    these enclose.
    """
    if parsed.mask_words or not parsed.polygons:
        return padded(masks, len(parsed.mask_words))
    parts: dict[int, list] = {}
    for polygon, mask in zip(parsed.polygons, parsed.polygon_masks, strict=True):
        parts.setdefault(mask, []).append(polygon)
    return tuple(Mask.of_array(drawn(polygons, size[::-1])) for polygons in parts.values())


def padded(masks: Masks, words: int) -> Masks:
    """The masks of an answer's last `words` words; None for each where no head drew any."""
    return masks[len(masks) - words :] if len(masks) >= words else (None,) * words
