"""Records as torch datasets: nothing is done at the start, and what was done once is remembered."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.utils.data import Dataset

from lynx_moe.data.packing import pack, shared_prefix
from lynx_moe.data.pictures import PictureCache, side_by_side
from lynx_moe.data.prompts import frame
from lynx_moe.data.records import Record, RecordSet
from lynx_moe.data.sample import SampleBuilder, Tokens
from lynx_moe.errors import FamilyError
from lynx_moe.grounding import Box

REMEMBERED_TEXTS = 200_000  # about 100 MB of tokens


class _Source:
    """What both datasets share: tokens and pictures of records, each made at first need."""

    def __init__(self, records: RecordSet, builder: SampleBuilder, cache_bytes: int):
        self.records = records
        self.builder = builder
        self._pictures = PictureCache(builder.processor.image_processor, cache_bytes)
        self._tokens: dict[int, Tokens] = {}

    def tokens(self, position: int) -> Tokens:
        if position not in self._tokens:
            tokens = self.builder.tokens([self.records[position]])[0]
            if len(self._tokens) >= REMEMBERED_TEXTS:
                return tokens
            self._tokens[position] = tokens
        return self._tokens[position]

    def sample(self, position: int) -> dict[str, torch.Tensor]:
        return self.builder.sample(self.tokens(position), self.records.sizes(position))

    def pixels(self, position: int) -> dict[str, torch.Tensor]:
        return side_by_side(
            [
                self._pictures.get(picture, lambda k=k: self.builder.pixels(self.records[position].image(k)))
                for k, picture in enumerate(self.records.pictures(position))
            ]
        )


def writable(records: RecordSet, builder: SampleBuilder) -> list[int]:
    """Positions of the records all of whose boxes and points the model can see; all unless the processor crops."""
    geometry = builder.dialect.geometry
    if geometry.sees_all:
        return list(range(len(records)))
    return [
        position
        for position, record in enumerate(records)
        if askable(record, builder)
        and all(
            geometry.visible(Box(*box), frame(record, picture)) is not None
            for picture, boxes in (
                (record.picture, record.boxes),
                *((step.picture, step.boxes) for step in record.steps),
            )
            for box in boxes
        )
    ]


def askable(record: Record, builder: SampleBuilder) -> bool:
    """Whether the model can see every box and every point that the question itself shows."""
    geometry = builder.dialect.geometry
    boxes = all(geometry.visible(Box(*box), record.size) is not None for box in record.question_boxes)
    return boxes and all(geometry.shows(point, record.size) for point in record.question_points)


class SampleDataset(Dataset):
    """One record per row. `dropped` counts records left out: the processor crops one of their boxes or points away.

    Args:
        records: what to train on.
        builder: makes the samples.
        cache_bytes: memory for prepared pictures; 0 prepares them anew every time.
    """

    def __init__(self, records: RecordSet, builder: SampleBuilder, *, cache_bytes: int = 2**30):
        kept = writable(records, builder)
        self.dropped = len(records) - len(kept)
        self.records = records if not self.dropped else records.select(kept)
        self._source = _Source(self.records, builder, cache_bytes)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, position: int) -> dict[str, torch.Tensor]:
        return self.text(position) | self.pixels(position)

    def text(self, position: int) -> dict[str, torch.Tensor]:
        """The token tensors of a row."""
        return self._source.sample(position)

    def pixels(self, position: int) -> dict[str, torch.Tensor]:
        """What the image processor makes of a row's pictures."""
        return self._source.pixels(position)

    def pictures(self, position: int) -> list[int]:
        """Numbers, in `records`, of the pictures of a row."""
        return self.records.pictures(position)


class PackedDataset(Dataset):
    """Records of one picture per row, as many as `max_tokens` hold. `dropped` as in `SampleDataset`.

    A record about several pictures has a row of its own.

    For models that pass `lynx_moe.data.packing.check_packable`, with the `Collator` of this package.

    Args:
        max_tokens: of a row, its picture's included; a record that is longer by itself gets a row of its own. Longer
            rows cost attention that nobody uses, since records do not see each other; shorter ones repeat the picture.
            Every record is tokenised once when the dataset is made, to fill rows evenly.

    Raises:
        FamilyError: the chat template puts the question before the picture, so that nothing can be shared.
    """

    def __init__(self, records: RecordSet, builder: SampleBuilder, *, max_tokens: int = 512, cache_bytes: int = 2**30):
        kept = writable(records, builder)
        self.dropped = len(records) - len(kept)
        self.records = records if not self.dropped else records.select(kept)
        self._source = _Source(self.records, builder, cache_bytes)
        self.rows = [row for group in self.records.by_picture() for row in self._filled(group, max_tokens)]
        fullest = max(self.rows, key=len, default=[])
        if len(fullest) > 1:
            self._prefix(fullest)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> dict[str, torch.Tensor]:
        return self.text(row) | self.pixels(row)

    def text(self, row: int) -> dict[str, torch.Tensor]:
        """The token tensors of a row."""
        positions = self.rows[row]
        samples = [self._source.sample(position) for position in positions]
        # A lone record needs no prefix: the same row with one segment.
        prefix = self._prefix(positions) if len(positions) > 1 else 0
        return pack(samples, prefix)

    def pixels(self, row: int) -> dict[str, torch.Tensor]:
        """What the image processor makes of a row's pictures."""
        return self._source.pixels(self.rows[row][0])

    def pictures(self, row: int) -> list[int]:
        """Numbers, in `records`, of the pictures of a row."""
        return self.records.pictures(self.rows[row][0])

    def _filled(self, group: list[int], max_tokens: int) -> list[list[int]]:
        """The group cut, in its order, into rows that keep within `max_tokens` where they can."""
        picture = sum(len(self._source.builder.picture_ids(size)) for size in self.records.sizes(group[0]))
        rows: list[list[int]] = []
        room = 0
        for position in group:
            tokens = self._source.tokens(position)
            shared = tokens.picture_at or 0  # tokens before the picture; its own placeholder counts as the record's
            own = len(tokens.ids) - shared
            if not rows or own > room:
                rows.append([])
                room = max_tokens - shared - picture
            rows[-1].append(position)
            room -= own
        return rows

    def _prefix(self, positions: Sequence[int]) -> int:
        tokens = [self._source.tokens(position) for position in positions]
        size = self.records.size(positions[0])
        prefix = shared_prefix(tokens, len(self._source.builder.picture_ids(size)))
        if prefix is None:
            raise FamilyError(
                "records of one picture cannot be packed with this chat template",
                why="it writes the question, or something else that differs, before the picture",
                fix="use SampleDataset",
            )
        return prefix
