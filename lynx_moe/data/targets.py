"""Targets that an objective asks for beside the answer, made of records where records become samples.

Three kinds, told apart by their shape, so that batching, packing, step-wise cutting and the frozen-prefix cache carry
them as they carry labels and pictures, and none of them knows what an objective wants:

    over tokens    (L,): a value for each token of a sample, 0 where nothing is said
    of items       (items, ..): what no single number says (a mask), one for each token that bears one, in their order
    of pictures    (pictures, ..): what is made of the picture itself, one for each picture that a row shows, in order
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

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
        """The token that spells a character of `text`, of several (its bytes) the last, which completes it; None where
        none does.
        """
        return next((k for k, (begin, end) in reversed([*enumerate(self.spans)]) if begin <= character < end), None)


@dataclass(frozen=True, slots=True)
class Target:
    """What is said of one token: its place before picture tokens are spread out, and values by name.

    `item` is what its maker's `of_items` makes an array of when the sample is asked for, or, of a token that stands for
    a picture, `of_shown`; kept small until then.
    """

    place: int
    values: dict[str, float]
    item: Any = None


@dataclass(frozen=True, slots=True)
class Beside:
    """A row beside a record's own that is read by an objective and not learned: a question, or a text alone.

    Attributes:
        asked: whose prompt it is, about the same pictures in the same order; None for a text alone.
        text: the text alone, without a chat template and without a picture.
        values: of the targets over tokens, at its last token.
    """

    values: dict[str, float]
    asked: Record | None = None
    text: str = ""


class TargetMaker(ABC):
    """Makes the targets of one objective. It is copied into data workers, so it holds no weights.

    Attributes:
        objective: whose targets they are. looks_for: what records it makes them of, in words.
        names: every tensor over tokens that it makes, with its type; names of all tensors begin with `TARGET`.
        reads_pictures: whether it makes something of the pictures themselves.
        of_input: whether they tell what is added to the model's input: then they stand in every forward of a record
            that is learned in several, and records of one picture cannot share its tokens.
        adds_rows: whether it asks for rows beside the records' own.
    """

    objective: str
    looks_for: str
    names: dict[str, torch.dtype]
    reads_pictures: bool = False
    of_input: bool = False
    adds_rows: bool = False

    def makes(self, target: Target) -> bool:
        """Whether a target is one of its own."""
        return self.names.keys() >= target.values.keys()

    def worded(self, record: Record) -> Record:
        """The record with the question that is put to the model; of targets `of_text` is told the record itself.

        Raises:
            RecordError: it cannot be asked so.
        """
        return record

    def finds(self, targets: Sequence[Target], pictures: int) -> bool:
        """Whether a sample with these targets, of all makers, and so many pictures has something for it."""
        return any(self.makes(target) for target in targets)

    @abstractmethod
    def of_text(self, told: Told) -> list[Target]:
        """What it says of tokens of question and answer; nothing where the record has nothing to learn from."""

    @abstractmethod
    def of_picture(self, processor: Any, size: tuple[int, int]) -> dict[str, np.ndarray]:
        """(P,) what it says of each token of a picture of `size` (width, height); by size alone, and remembered so."""

    def rows(self, record: Record) -> list[Beside]:
        """What it wants read beside the record itself; asked for only with `adds_rows`."""
        return []

    def of_items(self, processor: Any, items: Sequence[Any]) -> dict[str, np.ndarray]:
        """(items, ..) arrays of two dimensions or more: the items of a sample's targets, in the order of their tokens.

        The same names for any number of items, none included; further axes may differ between samples and are filled up
        with zeros behind.
        """
        return {}

    def of_shown(self, processor: Any, size: tuple[int, int], item: Any) -> dict[str, np.ndarray]:
        """(P,) what the item of a picture's token says of each token of that picture, of `size` (width, height)."""
        return {}

    def of_image(self, processor: Any, image: Image.Image) -> dict[str, np.ndarray]:
        """(1, ..) arrays of two dimensions or more of one picture; asked for only with `reads_pictures`."""
        return {}
