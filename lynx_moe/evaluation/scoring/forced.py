"""Log-probabilities of given tokens behind a picture and a prompt, in batches of any mixture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from lynx_moe.data import Collator, Record, SampleBuilder
from lynx_moe.errors import FamilyError
from lynx_moe.evaluation.scoring.base import moved, takes


@dataclass(frozen=True, kw_only=True, slots=True)
class Forced:
    """A text that is given, not generated.

    `ids` (L,) are shown to the model, those from `start` on are scored; `ends` are tokens that may come next, each
    scored as if it did, and `names` what each stands for. `pictures` is what the image processor made.
    """

    ids: np.ndarray
    start: int
    ends: tuple[int, ...]
    names: tuple[str, ...] = ("",)
    pictures: dict[str, torch.Tensor] = field(repr=False)


def answer_ids(builder: SampleBuilder, record: Record) -> tuple[np.ndarray, int]:
    """The record's prompt and answer as the model is trained on them, (L,) ids, and where the answer begins.

    Raises:
        RecordError, DialectError: the text cannot be worded for this model.
    """
    tokens = builder.tokens([record])[0]
    ids = builder.spread(tokens, record.sizes)
    return ids, tokens.answer_at + len(ids) - len(tokens.ids)


def log_probabilities(model, builder: SampleBuilder, rows: Sequence[Forced]) -> list[list[float]]:
    """Of each row, for each of its `ends`: the summed log-probability of the scored tokens and that end, in float32.

    Rows are padded on the right, so that positions count from the prompt's first token whatever the tokenizer's own
    padding side is, and a row's numbers depend on its company by rounding alone.

    Raises:
        FamilyError: the model answers with another number of positions than it was shown.
    """
    batch = Collator(builder.processor, side="right")([_sample(model, builder, row) for row in rows])
    first = min(row.start for row in rows) - 1  # the position that speaks of the first scored token
    length = batch["input_ids"].shape[1]
    if "labels" not in batch and takes(model, "logits_to_keep"):
        # A 7B model's logits over a whole prompt are gigabytes.
        batch["logits_to_keep"] = torch.arange(first, length)
    logits_BKV = model(**moved(model, batch)).logits
    if "logits_to_keep" not in batch:
        logits_BKV = logits_BKV[:, first:]
    if logits_BKV.shape[1] != length - first:
        raise FamilyError(
            f"{type(model).__name__} speaks of {logits_BKV.shape[1]} positions and was shown {length - first}",
            why="tokens can only be scored where the model keeps one position per token",
            fix="use a decoder-only base",
        )
    found = []
    for row, logits_KV in zip(rows, logits_BKV, strict=True):
        log_KV = logits_KV[row.start - 1 - first : len(row.ids) - first].float().log_softmax(-1)
        given = torch.from_numpy(row.ids[row.start :]).to(log_KV.device)
        so_far = log_KV[:-1].gather(-1, given[:, None]).sum()
        found.append((so_far + log_KV[-1, list(row.ends)]).tolist())
    return found


def _sample(model, builder: SampleBuilder, row: Forced) -> dict[str, torch.Tensor]:
    ids = torch.from_numpy(row.ids)
    sample = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        **builder.token_types(row.ids, row.start),
        **row.pictures,
    }
    if row.start < len(row.ids) and hasattr(model, "peft_config"):
        # An adapter's prompt gate decides on the prompt alone, and tells it from the answer by the labels.
        sample["labels"] = torch.where(torch.arange(len(ids)) < row.start, -100, ids)
    return sample
