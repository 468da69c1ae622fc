"""Records as torch datasets: nothing is done at the start, and what was done once is remembered."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Dataset

from lynx_moe.data.packing import pack, shared_prefix
from lynx_moe.data.pictures import PictureCache, side_by_side
from lynx_moe.data.prompts import frame
from lynx_moe.data.records import Record, RecordSet
from lynx_moe.data.sample import SampleBuilder, Tokens
from lynx_moe.data.steps import WHOLE, Stepwise, step_tokens
from lynx_moe.errors import FamilyError
from lynx_moe.grounding import Box

REMEMBERED_TEXTS = 200_000  # about 100 MB of tokens


class Source:
    """What both datasets share: tokens and pictures of records, each made at first need.

    A record has one sample, or one for each step or run of steps of its answer that is learned apart.
    """

    def __init__(self, records: RecordSet, builder: SampleBuilder, stepwise: Stepwise, cache_bytes: int):
        self.records = records
        self.builder = builder
        self.stepwise = stepwise
        self._pictures = PictureCache(builder.processor.image_processor, cache_bytes)
        self._tokens: dict[int, list[Tokens]] = {}

    def tokens(self, position: int) -> list[Tokens]:
        if position not in self._tokens:
            tokens = step_tokens(self.builder, self.records[position], self.stepwise)
            if len(self._tokens) >= REMEMBERED_TEXTS:
                return tokens
            self._tokens[position] = tokens
        return self._tokens[position]

    def samples(self, position: int) -> list[dict[str, torch.Tensor]]:
        sizes = self.records.sizes(position)
        return [self.builder.sample(tokens, sizes) for tokens in self.tokens(position)]

    def pixels(self, position: int) -> dict[str, torch.Tensor]:
        return side_by_side(
            [
                self._pictures.get(picture, lambda k=k: self.builder.pixels(self.records[position].image(k)))
                for k, picture in enumerate(self.records.pictures(position))
            ]
        )

    def group(self, positions: Sequence[int]) -> dict[str, torch.Tensor]:
        """Records of the same picture or pictures as one packed row, their tokens once, with the pictures.

        Raises:
            FamilyError: nothing can be shared.
        """
        samples = [sample for position in positions for sample in self.samples(position)]
        # A lone sample needs no prefix: the same row with one segment.
        return pack(samples, self.prefix(positions) if len(samples) > 1 else 0) | self.pixels(positions[0])

    def apart(self, positions: Sequence[int]) -> Iterator[dict[str, torch.Tensor]]:
        """Packed rows of one sample each, every one with its pictures."""
        for position in positions:
            for sample in self.samples(position):
                yield pack([sample], 0) | self.pixels(position)

    def shares(self, positions: Sequence[int]) -> bool:
        """Whether records of the same pictures are the same up to the last picture."""
        return self._prefix(positions) is not None

    def prefix(self, positions: Sequence[int]) -> int:
        """Tokens that records of the same pictures share, up to the last picture.

        Raises:
            FamilyError: there are none.
        """
        prefix = self._prefix(positions)
        if prefix is None:
            raise FamilyError(
                f"{type(self.builder.processor).__name__} puts questions before the picture",
                why="records are packed behind a picture that they share, and here they differ before it",
                fix="data.packing=sequence shares nothing there; without packing, objective.stepwise=whole or faithful",
            )
        return prefix

    def _prefix(self, positions: Sequence[int]) -> int | None:
        return shared_prefix([t for each in positions for t in self.tokens(each)], self.per_picture(positions[0]))

    def lengths(self, position: int) -> list[int]:
        """Tokens of each sample, those of its pictures included."""
        more = sum(n - 1 for n in self.per_picture(position))
        return [len(tokens.ids) + more for tokens in self.tokens(position)]

    def per_picture(self, position: int) -> list[int]:
        """Tokens that stand for each of its pictures."""
        return [len(self.builder.picture_ids(size)) for size in self.records.sizes(position)]


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

    What an entry is depends on how stepwise answers are learned: a sample; with "faithful" a list of samples, one per
    step, which the `Collator` makes rows of; a packed row where steps need segments.

    Args:
        records: what to train on.
        builder: makes the samples; with `mark_steps` unless answers are learned whole.
        stepwise: how stepwise answers are learned.
        cache_bytes: memory for prepared pictures; 0 prepares them anew every time.
    """

    def __init__(
        self, records: RecordSet, builder: SampleBuilder, *, stepwise: Stepwise = WHOLE, cache_bytes: int = 2**30
    ):
        kept = writable(records, builder)
        self.dropped = len(records) - len(kept)
        self.records = records if not self.dropped else records.select(kept)
        self._source = Source(self.records, builder, stepwise, cache_bytes)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, position: int) -> dict[str, torch.Tensor] | list[dict[str, torch.Tensor]]:
        source = self._source
        if source.stepwise.in_segments:
            return source.group([position])
        rows = [sample | source.pixels(position) for sample in source.samples(position)]
        return rows if source.stepwise.mode == "faithful" else rows[0]
