"""Several records per row as a torch dataset: which records share a row, and the row when it is asked for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.utils.data import Dataset

from lynx_moe.data.dataset import Source, writable
from lynx_moe.data.filling import fill
from lynx_moe.data.packing import chain
from lynx_moe.data.records import RecordSet
from lynx_moe.data.sample import SampleBuilder
from lynx_moe.data.steps import WHOLE, Stepwise


class PackedDataset(Dataset):
    """Several records per row, as many as `max_tokens` hold. `dropped` as in `SampleDataset`.

    A row holds groups: records of one picture behind its tokens. A record about several pictures, or of text only, is
    a group of its own. For models that pass `lynx_moe.data.packing.check_packable`, with this package's `Collator`.
    Every record is tokenised once when the dataset is made, to fill rows well.

    Args:
        max_tokens: of a row, its pictures' included; a record that is longer by itself gets a row of its own. Longer
            rows cost attention that nobody uses, since records do not see each other; shorter ones repeat the picture.
        packing: "picture": one group per row. "sequence": as many as there is room for.
        share: whether records share a picture's tokens; else each repeats them, as flash attention needs. Only
            "sequence" can do without, and does where the chat template puts questions before the picture.
        stepwise: how stepwise answers are learned, "whole" or "packed".

    Attributes:
        groups: per row its groups, each a list of positions in `records`. rows: the same without the groups.

    Raises:
        FamilyError: the chat template puts the question before the picture, so that nothing can be shared.
    """

    def __init__(
        self,
        records: RecordSet,
        builder: SampleBuilder,
        *,
        max_tokens: int = 512,
        packing: str = "picture",
        share: bool = True,
        stepwise: Stepwise = WHOLE,
        cache_bytes: int = 2**30,
    ):
        kept = writable(records, builder)
        self.dropped = len(records) - len(kept)
        self.records = records if not self.dropped else records.select(kept)
        self.packing = packing
        self._source = Source(self.records, builder, stepwise, cache_bytes)
        groups = [part for group in self.records.by_picture() for part in self._filled(group, max_tokens)]
        fullest = max(groups, key=self._samples, default=[])
        self._share = share
        if packing == "picture":
            if self._samples(fullest) > 1:
                self._source.prefix(fullest)
            self.groups = [[group] for group in groups]
            return
        self._share = share and (self._samples(fullest) < 2 or self._source.shares(fullest))
        if not self._share:
            groups = [[position] for group in groups for position in group]
        self.groups = list(fill(((group, self._length(group)) for group in groups), max_tokens))

    @property
    def rows(self) -> list[list[int]]:
        return [[position for group in groups for position in group] for groups in self.groups]

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, row: int) -> dict[str, torch.Tensor]:
        groups = self.groups[row]
        if self.packing == "picture":
            return self._source.group(groups[0])
        source = self._source
        parts = [part for g in groups for part in ([source.group(g)] if self._share else source.apart(g))]
        return chain(parts)

    def _samples(self, group: Sequence[int]) -> int:
        return sum(len(self._source.tokens(position)) for position in group)

    def _length(self, group: Sequence[int]) -> int:
        """Tokens of a group in a row."""
        lengths = [length for position in group for length in self._source.lengths(position)]
        repeated = self._source.prefix(group) if self._share and len(lengths) > 1 else 0
        return sum(lengths) - repeated * (len(lengths) - 1)

    def _filled(self, group: list[int], max_tokens: int) -> list[list[int]]:
        """The group cut, in its order, into rows that keep within `max_tokens` where they can."""
        picture = sum(len(self._source.builder.picture_ids(size)) for size in self.records.sizes(group[0]))
        rows: list[list[int]] = []
        room = 0
        for position in group:
            tokens = self._source.tokens(position)
            shared = tokens[0].picture_at or 0  # tokens before the picture; its own placeholder counts as the record's
            own = sum(len(each.ids) - shared for each in tokens)
            if not rows or own > room:
                rows.append([])
                room = max_tokens - shared - picture
            rows[-1].append(position)
            room -= own
        return rows
