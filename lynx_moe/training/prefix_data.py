"""Rows of a dataset with the frozen prefix's states in place of their pictures, where those are stored already."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from lynx_moe.data.collate import one_by_one
from lynx_moe.data.pictures import side_by_side
from lynx_moe.data.records import RecordSet
from lynx_moe.data.sample import IGNORED
from lynx_moe.tensor_store import Damaged
from lynx_moe.training.loss import is_ours
from lynx_moe.training.prefix_store import STATES, PrefixStore

PREFIX = "prefix"  # what a batch calls it


class Note(NamedTuple):
    """What is known of one row's prefix.

    Attributes:
        key: its name in the store; None when nothing of the row needs computing.
        span: tokens, from the first, whose states are meant.
        states_SD: the stored states; None when they are missing.
        pictures: what the image processor gave; when the states are there, only `geometry` of it.
        damaged: how many of the row's files were damaged.
        answer_key: name in the store of what the base itself makes of the row's understanding answer; None without.
        answer_TD: that, if it is stored: states behind the last layer where an answer token is predicted.
    """

    key: str | None
    span: int
    states_SD: Tensor | None
    pictures: dict[str, Tensor]
    damaged: int = 0
    answer_key: str | None = None
    answer_TD: Tensor | None = None


class PrefixDataset(Dataset):
    """Token tensors of each row, and under "prefix" a `Note`. The picture of a row that is stored is not opened, unless
    an objective beside the answer wants something of it.

    Args:
        rows: a dataset of `lynx_moe.data`.
        picture_token: id that stands for the picture when only its states, at the decoder's entrance, are stored;
            None stores the states of all of a row's tokens.
        with_answers: read what the base itself says too, which the loss on understanding answers asks for.
    """

    def __init__(self, rows: Any, store: PrefixStore, picture_token: int | None, *, with_answers: bool):
        self.rows = rows
        self.store = store
        self.picture_token = picture_token
        self.with_answers = with_answers
        self._fingerprints: dict[int, bytes] = {}

    @property
    def records(self) -> RecordSet:
        return self.rows.records

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> dict[str, Any] | list[dict[str, Any]]:
        return self.rows.take(row, self._made)

    def _made(self, row: int) -> dict[str, Any] | list[dict[str, Any]]:
        text, wanted = self.rows.text(row), self.rows.picture_targets(row)
        # Step-wise tuning gives a list: one sample per step, each with the same pictures.
        if isinstance(text, list):
            return [self._noted(row, each) | (wanted if self.rows.shows(each) else {}) for each in text]
        return self._noted(row, text) | wanted

    def _noted(self, row: int, text: dict[str, Tensor]) -> dict[str, Any]:
        pictures = self.rows.pictures(row) if self.rows.shows(text) else []
        span = self.span(text, bool(pictures))
        note = Note(None, 0, None, {})
        if span:
            key = self.store.key(self._content(text, span, pictures))
            found, damaged = self._stored(key)
            if found is None:
                note = Note(key, span, None, self.rows.pixels(row) if pictures else {}, damaged)
            else:
                note = Note(key, span, found.pop(STATES), found)
        at_T = answer_places(text) if self.with_answers else ()
        if len(at_T):
            whole = self._content(text, len(text["input_ids"]), pictures)
            key = self.store.key(b"answer" + whole + at_T.numpy().tobytes())
            found, damaged = self._stored(key)
            note = note._replace(answer_key=key, answer_TD=found and found[STATES], damaged=note.damaged + damaged)
        return text | {PREFIX: note}

    def _stored(self, key: str) -> tuple[dict[str, Tensor] | None, int]:
        """What is stored under `key`, and how many damaged files were in the way."""
        try:
            return self.store.get(key), 0
        except Damaged:
            return None, 1

    def span(self, text: dict[str, Tensor], has_picture: bool) -> int:
        """How many tokens of a row, from the first, have states worth storing."""
        length = len(text["input_ids"])
        if self.picture_token is None:
            return length
        if not has_picture:
            return 0
        places = (text["input_ids"] == self.picture_token).nonzero()
        return int(places[-1]) + 1 if len(places) else length

    def _content(self, text: dict[str, Tensor], span: int, pictures: Sequence[int]) -> bytes:
        """Everything about the row that its states depend on, as one digest."""
        digest = hashlib.sha256()
        if span < len(text["input_ids"]):
            # In front of the first layer no token has seen another: records of one picture share what is stored.
            text = {name: value for name, value in text.items() if name not in ("segment_ids", "group_ids")}
            text.setdefault("position_ids", torch.arange(len(text["input_ids"])))
        for name, value in sorted(text.items()):
            # What the frozen part never reads: who else has the same row shares its states.
            if not is_ours(name) and name != "attention_mask":
                digest.update(f"{name} {value.dtype} {span}".encode())
                digest.update(value[:span].contiguous().numpy())
        for picture in pictures:
            if picture not in self._fingerprints:
                self._fingerprints[picture] = self.rows.records.fingerprint(picture)
            digest.update(self._fingerprints[picture])
        return digest.digest()


class PrefixCollator:
    """Batches of a `PrefixDataset`'s rows.

    Args:
        collate: makes a batch of rows without "prefix".
    """

    def __init__(self, collate: Callable[[Sequence[dict]], dict]):
        self.collate = collate

    def __call__(self, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """The batch without pictures, and under "prefix" what stands in for them.

        Returns:
            `hits` (rows), `sizes` (tokens of each) and `states` (all of them, D); `missing`: of each row that is to be
            computed its number, key, span and `geometry`; `pictures`: those of the missing rows, as the model takes
            them; `names`: entries of the batch that go by pictures, not rows; `answers` (all understanding answers'
            tokens, D), None where some are missing; `answer_keys`: row to name in the store, of the missing; `damaged`.
        """
        samples = one_by_one(samples)
        notes: list[Note] = [sample[PREFIX] for sample in samples]
        geometries = [geometry(note.pictures) for note in notes]
        texts = [{name: value for name, value in sample.items() if name != PREFIX} for sample in samples]
        batch = self.collate([text | small for text, small in zip(texts, geometries, strict=True)])
        hits = [row for row, note in enumerate(notes) if note.states_SD is not None]
        missing = [row for row, note in enumerate(notes) if note.key is not None and note.states_SD is None]
        asked = [note for note in notes if note.answer_key is not None]
        lacking = {row: n.answer_key for row, n in enumerate(notes) if n.answer_key and n.answer_TD is None}
        batch[PREFIX] = {
            "hits": hits,
            "sizes": [len(notes[row].states_SD) for row in hits],
            "states": torch.cat([notes[row].states_SD for row in hits]) if hits else None,
            "missing": [(row, notes[row].key, notes[row].span, geometries[row]) for row in missing],
            "pictures": side_by_side([notes[row].pictures for row in missing if notes[row].pictures]),
            "names": sorted({name for small in geometries for name in small}),
            "answers": torch.cat([note.answer_TD for note in asked]) if asked and not lacking else None,
            "answer_keys": lacking,
            "damaged": sum(note.damaged for note in notes),
        }
        return batch


def answer_places(text: dict[str, Tensor]) -> Tensor:
    """(T,) positions in a row where a token of an understanding answer is predicted."""
    grounding = text["is_grounding"].bool()
    return ((text["labels"][1:] != IGNORED) & ~grounding[1:]).nonzero().squeeze(1)


def geometry(pictures: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of what an image processor gives, the few whole numbers per picture (sizes, grids): a decoder's positions may
    depend on them. Pixels and masks over pixels are for the picture's side only.
    """
    return {name: value for name, value in pictures.items() if not value.is_floating_point() and value.ndim <= 2}
