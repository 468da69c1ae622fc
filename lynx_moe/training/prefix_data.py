"""Rows of a dataset with the frozen prefix's states in place of their pictures, where those are stored already."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from lynx_moe.data.pictures import side_by_side
from lynx_moe.training.prefix_store import STATES, Damaged, PrefixStore

PREFIX = "prefix"  # what a batch calls it
# Token tensors that the frozen part never reads: who else has the same row shares its states.
UNREAD = ("labels", "is_grounding", "in_box", "attention_mask")


class Note(NamedTuple):
    """What is known of one row's prefix.

    Attributes:
        key: its name in the store; None when nothing of the row needs computing.
        span: tokens, from the first, whose states are meant.
        states_SD: the stored states; None when they are missing.
        pictures: what the image processor gave; when the states are there, only `geometry` of it.
        damaged: whether the stored states were damaged.
    """

    key: str | None
    span: int
    states_SD: Tensor | None
    pictures: dict[str, Tensor]
    damaged: bool


class PrefixDataset(Dataset):
    """Token tensors of each row, and under "prefix" a `Note`. The picture of a row that is stored is not opened.

    Args:
        rows: a dataset with `text`, `pixels` and `pictures` (of a row) and `records`.
        picture_token: id that stands for the picture when only its states, at the decoder's entrance, are stored;
            None stores the states of all of a row's tokens.
    """

    def __init__(self, rows: Any, store: PrefixStore, picture_token: int | None):
        self.rows = rows
        self.store = store
        self.picture_token = picture_token
        self._fingerprints: dict[int, bytes] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> dict[str, Any]:
        text = self.rows.text(row)
        pictures = self.rows.pictures(row)
        span = self.span(text, bool(pictures))
        if not span:
            return text | {PREFIX: Note(None, 0, None, {}, False)}
        key = self.store.key(self._content(text, span, pictures))
        damaged = False
        try:
            found = self.store.get(key)
        except Damaged:
            found, damaged = None, True
        if found is None:
            return text | {PREFIX: Note(key, span, None, self.rows.pixels(row), damaged)}
        return text | {PREFIX: Note(key, span, found.pop(STATES), found, False)}

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
        if self.picture_token is not None:
            # In front of the first layer no token has seen another: records of one picture share what is stored.
            text = {name: value for name, value in text.items() if name != "segment_ids"}
            text.setdefault("position_ids", torch.arange(span))
        for name, value in sorted(text.items()):
            if name not in UNREAD:
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
        """The batch without pictures; and under "prefix"

        `hits` (rows), `sizes` (tokens of each), `states` (all of them, D); `missing`: per row that is to be computed
        its number, key, span and `geometry`; `pictures`: of those rows, as the model takes them; `names`: of entries of
        the batch that go by pictures, not rows; `damaged`.
        """
        notes: list[Note] = [sample[PREFIX] for sample in samples]
        geometries = [geometry(note.pictures) for note in notes]
        texts = [{name: value for name, value in sample.items() if name != PREFIX} for sample in samples]
        batch = self.collate([text | small for text, small in zip(texts, geometries, strict=True)])
        hits = [row for row, note in enumerate(notes) if note.states_SD is not None]
        missing = [row for row, note in enumerate(notes) if note.key is not None and note.states_SD is None]
        batch[PREFIX] = {
            "hits": hits,
            "sizes": [len(notes[row].states_SD) for row in hits],
            "states": torch.cat([notes[row].states_SD for row in hits]) if hits else None,
            "missing": [(row, notes[row].key, notes[row].span, geometries[row]) for row in missing],
            "pictures": side_by_side([notes[row].pictures for row in missing if notes[row].pictures]),
            "names": sorted({name for small in geometries for name in small}),
            "damaged": sum(note.damaged for note in notes),
        }
        return batch


def geometry(pictures: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of what an image processor gives, the few whole numbers per picture (sizes, grids): a decoder's positions may
    depend on them. Pixels and masks over pixels are for the picture's side only.
    """
    return {name: value for name, value in pictures.items() if not value.is_floating_point() and value.ndim <= 2}
