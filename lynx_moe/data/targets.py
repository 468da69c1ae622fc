"""Per-token targets that an objective asks for beside the answer, made of records where records become samples.

Everything is a 1-D tensor over a sample's tokens, 0 where nothing is said. So batching, packing, step-wise cutting
and the frozen-prefix cache treat targets as they treat labels, and none of them knows what an objective wants.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from lynx_moe.data.records import Record
from lynx_moe.families.dialects import Dialect

TARGET = "target_"  # how the names of all targets begin: they are for the loss, never for the model


@dataclass(frozen=True, slots=True)
class Told:
    """A record in its own words, as the chat template and the tokenizer make it.

    Attributes:
        question, answer: as they stand in `text`. text: prompt and answer.
        question_at, answer_at: characters of `text` where each begins; None where it is not there word for word.
        spans: characters (begin, end) of `text` of each token, before picture tokens are spread out.
        answer_token: the first token of the answer.
        pictures_at: the tokens that stand for the pictures, before these are spread out.
    """

    record: Record
    dialect: Dialect
    text: str
    question: str
    question_at: int | None
    answer: str
    answer_at: int | None
    spans: Sequence[tuple[int, int]]
    answer_token: int
    pictures_at: tuple[int, ...] = ()

    def token_of(self, character: int) -> int | None:
        """The token that spells a character of `text`; None where none does."""
        return next((k for k, (begin, end) in enumerate(self.spans) if begin <= character < end), None)


@dataclass(frozen=True, slots=True)
class Target:
    """What is said of one token: its place before picture tokens are spread out, and values by name."""

    place: int
    values: dict[str, float]


class TargetMaker(ABC):
    """Makes the targets of one objective. It is copied into data workers, so it holds no weights.

    Attributes:
        objective: whose targets they are. looks_for: what records it makes them of, in words.
        names: every tensor that it makes, with its type; names begin with `TARGET`.
    """

    objective: str
    looks_for: str
    names: dict[str, torch.dtype]

    @abstractmethod
    def of_text(self, told: Told) -> list[Target]:
        """What it says of tokens of question and answer; nothing where the record has nothing to learn from."""

    @abstractmethod
    def of_picture(self, processor: Any, size: tuple[int, int]) -> dict[str, np.ndarray]:
        """(P,) what it says of each token of a picture of `size` (width, height); by size alone, and remembered so."""
