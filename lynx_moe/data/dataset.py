"""Records as torch datasets: nothing is done at the start, and what was done once is remembered."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import torch
from torch.utils.data import Dataset

from lynx_moe.data.packing import pack, shared_prefix
from lynx_moe.data.pictures import PictureCache, side_by_side
from lynx_moe.data.records import Record, RecordSet
from lynx_moe.data.sample import SampleBuilder, Tokens
from lynx_moe.data.screening import LeftOut, Screen, evenly, first_usable
from lynx_moe.errors import FamilyError
from lynx_moe.grounding import Box

REMEMBERED_TEXTS = 200_000  # about 100 MB of tokens


class _Source:
    """What both datasets share: tokens and pictures of records, each made at first need."""

    def __init__(self, records: RecordSet, screen: Screen, cache_bytes: int, known: dict[int, Tokens]):
        self.records = records
        self.screen = screen
        self.builder = builder = screen.builder
        self._pictures = PictureCache(builder.processor.image_processor, cache_bytes)
        self._tokens = dict(islice(known.items(), REMEMBERED_TEXTS))

    def tokens(self, position: int) -> Tokens:
        if position not in self._tokens:
            tokens = self.builder.tokens([self.records[position]])[0]
            if len(self._tokens) >= REMEMBERED_TEXTS:
                return tokens
            self._tokens[position] = tokens
        return self._tokens[position]

    def sample(self, position: int) -> dict[str, torch.Tensor]:
        tokens, sizes = self.tokens(position), self.records.sizes(position)
        if self.screen.max_positions is not None:
            length = self.builder.length(tokens, sizes)
            if length > self.screen.max_positions:
                self.screen.check_length(self.records[position], length)
        return self.builder.sample(tokens, sizes)

    def pixels(self, position: int) -> dict[str, torch.Tensor]:
        return side_by_side(
            [
                self._pictures.get(picture, lambda k=k: self.builder.pixels(self.records[position].image(k)))
                for k, picture in enumerate(self.records.pictures(position))
            ]
        )


def askable(record: Record, builder: SampleBuilder) -> bool:
    """Whether the model can see every box and every point that the question itself shows."""
    geometry = builder.dialect.geometry
    boxes = all(geometry.visible(Box(*box), record.size) is not None for box in record.question_boxes)
    return boxes and all(geometry.shows(point, record.size) for point in record.question_points)


class _Screened(Dataset):
    """What both datasets share: records left out, and a place that cannot be used giving way to the next."""

    records: RecordSet
    left_out: LeftOut

    @property
    def dropped(self) -> int:
        return self.left_out.total

    def _take(self, records: RecordSet, screen: Screen, looked_at: Sequence[int], cache_bytes: int) -> None:
        """Sets `left_out`, `records` and their source."""
        kept, self.left_out = screen.usable(records, looked_at)
        self.records = records
        if self.dropped:
            bad = set(looked_at) - kept.keys()
            stay = [position for position in range(len(records)) if position not in bad]
            self.records = records.select(stay)
            kept = {new: kept[old] for new, old in enumerate(stay) if old in kept}
        self.screen = screen
        self._source = _Source(self.records, screen, cache_bytes, kept)

    def __getitem__(self, place: int) -> dict[str, torch.Tensor]:
        if not -len(self) <= place < len(self):
            raise IndexError(f"row {place} of {len(self)}")
        return first_usable(place, len(self), self._made, self._held)

    def _made(self, place: int) -> dict[str, torch.Tensor]:
        raise NotImplementedError

    def _held(self, place: int) -> list[int]:
        """Positions, in `self.records`, of the records at that place."""
        raise NotImplementedError

    def _traced(self, place: int, sample: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return sample | {
            "record_rows": torch.tensor(self._held(place)),
            "num_tokens": torch.tensor([len(sample["input_ids"])]),
        }


class SampleDataset(_Screened):
    """One record per row.

    Records that cannot be learned from are left out (`lynx_moe.data.screening`): of at most `LOOKED_AT` records at
    once, of more when they are met, where the next record takes their place.

    Args:
        records: what to train on.
        builder: makes the samples.
        cache_bytes: memory for prepared pictures; 0 prepares them anew every time.
        max_positions: tokens that the model has positions for; None for no limit.
        traced: samples also say which record they hold, "record_rows" (1,), and their "num_tokens" (1,).

    Attributes:
        records: those that are left. left_out: what was left out at the start; `dropped` is how many.
    """

    def __init__(
        self,
        records: RecordSet,
        builder: SampleBuilder,
        *,
        cache_bytes: int = 2**30,
        max_positions: int | None = None,
        traced: bool = False,
    ):
        self._take(records, Screen(builder, max_positions), evenly(len(records)), cache_bytes)
        self.traced = traced

    def __len__(self) -> int:
        return len(self.records)

    def _made(self, place: int) -> dict[str, torch.Tensor]:
        sample = self._source.sample(place) | self._source.pixels(place)
        return self._traced(place, sample) if self.traced else sample

    def _held(self, place: int) -> list[int]:
        return [place]


class PackedDataset(_Screened):
    """Records of one picture per row, as many as `max_tokens` hold.

    Records that cannot be learned from are left out at the start, all of them, since all are tokenised there.

    A record about several pictures has a row of its own.

    For models that pass `lynx_moe.data.packing.check_packable`, with the `Collator` of this package.

    Args:
        max_tokens: of a row, its picture's included; a record that is longer by itself gets a row of its own. Longer
            rows cost attention that nobody uses, since records do not see each other; shorter ones repeat the picture.
            Every record is tokenised once when the dataset is made, to fill rows evenly.
        max_positions, traced: as for `SampleDataset`; "record_rows" (k,) then numbers all records of a row.

    Raises:
        FamilyError: the chat template puts the question before the picture, so that nothing can be shared.
    """

    def __init__(
        self,
        records: RecordSet,
        builder: SampleBuilder,
        *,
        max_tokens: int = 512,
        cache_bytes: int = 2**30,
        max_positions: int | None = None,
        traced: bool = False,
    ):
        self._take(records, Screen(builder, max_positions), range(len(records)), cache_bytes)
        self.traced = traced
        self.rows = [row for group in self.records.by_picture() for row in self._filled(group, max_tokens)]
        fullest = max(self.rows, key=len, default=[])
        if len(fullest) > 1:
            self._prefix(fullest)

    def __len__(self) -> int:
        return len(self.rows)

    def _made(self, place: int) -> dict[str, torch.Tensor]:
        positions = self.rows[place]
        samples = [self._source.sample(position) for position in positions]
        # A lone record needs no prefix: the same row with one segment.
        prefix = self._prefix(positions) if len(positions) > 1 else 0
        row = pack(samples, prefix) | self._source.pixels(positions[0])
        return self._traced(place, row) if self.traced else row

    def _held(self, place: int) -> list[int]:
        return self.rows[place]

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
