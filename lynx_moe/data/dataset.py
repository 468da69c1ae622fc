"""Records as torch datasets: nothing is done at the start, and what was done once is remembered."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import torch
from torch.utils.data import Dataset

from lynx_moe.data.packing import chain, pack, shared_prefix
from lynx_moe.data.pictures import PictureCache, side_by_side
from lynx_moe.data.records import Record, RecordSet
from lynx_moe.data.sample import SampleBuilder, Tokens
from lynx_moe.data.screening import LeftOut, Screen, evenly, first_usable
from lynx_moe.data.steps import WHOLE, Stepwise, step_tokens
from lynx_moe.errors import DialectError, FamilyError, RecordError
from lynx_moe.grounding import Box

REMEMBERED_TEXTS = 200_000  # about 100 MB of tokens


class Source:
    """What both datasets share: tokens and pictures of records, each made at first need.

    A record has one sample, or one for each step or run of steps of its answer that is learned apart; and those that
    objectives read beside it, of which some are texts alone.
    """

    def __init__(self, records: RecordSet, screen: Screen, cache_bytes: int, known: dict[int, list[Tokens]]):
        self.records = records
        self.screen = screen
        self.builder = screen.builder
        self.stepwise = screen.stepwise
        self._pictures = PictureCache(self.builder.processor.image_processor, cache_bytes)
        self._of_pictures = PictureCache(None, cache_bytes)
        self._targets_read_pictures = any(maker.reads_pictures for maker in self.builder.targets)
        self._tokens = dict(islice(known.items(), REMEMBERED_TEXTS))

    def tokens(self, position: int) -> list[Tokens]:
        if position not in self._tokens:
            tokens = step_tokens(self.builder, self.records[position], self.stepwise)
            if len(self._tokens) >= REMEMBERED_TEXTS:
                return tokens
            self._tokens[position] = tokens
        return self._tokens[position]

    def samples(self, position: int) -> list[dict[str, torch.Tensor]]:
        sizes = self.records.sizes(position)
        if self.screen.max_positions is not None and max(self.lengths(position)) > self.screen.max_positions:
            self.screen.check_length(self.records[position], max(self.lengths(position)))
        return [self.builder.sample(tokens, sizes) for tokens in self.tokens(position)]

    def pixels(self, position: int) -> dict[str, torch.Tensor]:
        return side_by_side(
            [
                self._pictures.get(picture, lambda k=k: self.builder.pixels(self.records[position].image(k)))
                for k, picture in enumerate(self.records.pictures(position))
            ]
        )

    def picture_targets(self, position: int) -> dict[str, torch.Tensor]:
        """What objectives want of the record's pictures, joined; nothing where none wants anything."""
        if not self._targets_read_pictures:
            return {}
        return side_by_side(
            [
                self._of_pictures.get(
                    picture, lambda k=k: self.builder.picture_targets(self.records[position].image(k))
                )
                for k, picture in enumerate(self.records.pictures(position))
            ]
        )

    def groups(self, positions: Sequence[int]) -> list[dict[str, torch.Tensor]]:
        """Records of the same picture or pictures as one packed row, their tokens once; without the pictures. Texts
        alone, which see no picture, are a row each behind it.

        Raises:
            FamilyError: nothing can be shared.
        """
        samples, alone = [], []
        for position in positions:
            for tokens, sample in zip(self.tokens(position), self.samples(position), strict=True):
                (samples if self.shows(position, tokens) else alone).append(sample)
        # A lone sample needs no prefix: the same row with one segment.
        return [pack(samples, self.prefix(positions) if len(samples) > 1 else 0), *(pack([each], 0) for each in alone)]

    def group(self, positions: Sequence[int]) -> dict[str, torch.Tensor]:
        """`groups` as one row."""
        groups = self.groups(positions)
        # A row beside others in a batch says of all its tokens what the others say of theirs.
        return chain(groups) if self.builder.adds_rows else groups[0]

    def shows(self, position: int, tokens: Tokens) -> bool:
        """Whether one of the record's samples shows all that the record shows; else it is a text alone."""
        return len(tokens.pictures_at) == len(self.records.pictures(position))

    def apart(self, positions: Sequence[int]) -> Iterator[dict[str, torch.Tensor]]:
        """Packed rows of one sample each, without the pictures that every one of them shows."""
        for position in positions:
            for sample in self.samples(position):
                yield pack([sample], 0)

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
        tokens = [t for each in positions for t in self.tokens(each) if self.shows(each, t)]
        return shared_prefix(tokens, self.per_picture(positions[0]))

    def lengths(self, position: int) -> list[int]:
        """Tokens of each sample, those of its pictures included."""
        sizes = self.records.sizes(position)
        return [self.builder.length(tokens, sizes) for tokens in self.tokens(position)]

    def per_picture(self, position: int) -> list[int]:
        """Tokens that stand for each of its pictures."""
        return [len(self.builder.picture_ids(size)) for size in self.records.sizes(position)]


def askable(record: Record, builder: SampleBuilder) -> bool:
    """Whether the question can be put to the model, and it can see every box and every point that it shows."""
    if not visible(record, builder):
        return False
    try:
        builder.question(record)
    except (DialectError, RecordError):
        return False
    return True


def visible(record: Record, builder: SampleBuilder) -> bool:
    """Whether the model can see every box and every point that the question shows."""
    geometry = builder.dialect.geometry
    boxes = all(geometry.visible(Box(*box), record.size) is not None for box in record.question_boxes)
    return boxes and all(geometry.shows(point, record.size) for point in record.question_points)


Samples = dict[str, torch.Tensor] | list[dict[str, torch.Tensor]]


class Screened(Dataset):
    """What both datasets share: records left out, and a place that cannot be used giving way to the next.

    Attributes:
        records: those that are left. left_out: what was left out at the start; `dropped` is how many.
    """

    records: RecordSet
    left_out: LeftOut
    traced: bool

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
        self._source = Source(self.records, screen, cache_bytes, kept)

    def __getitem__(self, place: int) -> Samples:
        return self.take(place, self._made)

    def take(self, place: int, make: Callable[[int], Samples]) -> Samples:
        """What `make` gives for `place`, or for the next place that can be used; traced if this dataset is."""
        if not -len(self) <= place < len(self):
            raise IndexError(f"row {place} of {len(self)}")
        found, there, passed = first_usable(place, len(self), make, self._held)
        rows = found if isinstance(found, list) else [found]
        if self.traced:
            held = torch.tensor(self._held(there))
            rows = [row | {"record_rows": held, "num_tokens": torch.tensor([len(row["input_ids"])])} for row in rows]
        if passed:
            rows[0] = rows[0] | {"left_out": torch.tensor(passed)}
        return rows if isinstance(found, list) else rows[0]

    def _made(self, place: int) -> Samples:
        text, pixels = self.text(place), self.pixels(place) | self.picture_targets(place)
        if isinstance(text, list):
            return [row | pixels if self.shows(row) else row for row in text]
        return text | pixels

    def shows(self, row: dict[str, torch.Tensor]) -> bool:
        """Whether a row of tokens shows the pictures of its place; else it is a text alone."""
        builder = self.screen.builder
        return not builder.adds_rows or bool((row["input_ids"] == builder.image_token_id).any())

    @abstractmethod
    def text(self, place: int) -> Samples:
        """What is at that place, without its pictures."""

    @abstractmethod
    def pixels(self, place: int) -> dict[str, torch.Tensor]:
        """What the image processor makes of the pictures at that place, in the order in which they stand there."""

    @abstractmethod
    def picture_targets(self, place: int) -> dict[str, torch.Tensor]:
        """What objectives beside the answer want of those pictures, in the same order; nothing for most."""

    @abstractmethod
    def pictures(self, place: int) -> list[int]:
        """Numbers, in `records`, of the pictures at that place, in that order."""

    @abstractmethod
    def _held(self, place: int) -> list[int]:
        """Positions, in `self.records`, of the records at that place."""


class SampleDataset(Screened):
    """One record per row.

    Records that cannot be learned from are left out (`lynx_moe.data.screening`): of at most `LOOKED_AT` records at
    once, of more when they are met, where the next record takes their place.

    What an entry is depends on how stepwise answers are learned: a sample; with "faithful" a list of samples, one per
    step, which the `Collator` makes rows of; a packed row where steps need segments. It is a list, too, where an
    objective reads rows beside the record's own.

    Args:
        records: what to train on.
        builder: makes the samples; with `mark_steps` unless answers are learned whole.
        stepwise: how stepwise answers are learned.
        cache_bytes: memory for prepared pictures; 0 prepares them anew every time.
        max_positions: tokens that the model has positions for; None for no limit.
        traced: samples also say which record they hold, "record_rows" (1,), and their "num_tokens" (1,).
    """

    def __init__(
        self,
        records: RecordSet,
        builder: SampleBuilder,
        *,
        stepwise: Stepwise = WHOLE,
        cache_bytes: int = 2**30,
        max_positions: int | None = None,
        traced: bool = False,
    ):
        self._take(records, Screen(builder, max_positions, stepwise), evenly(len(records)), cache_bytes)
        self.traced = traced

    def __len__(self) -> int:
        return len(self.records)

    def text(self, place: int) -> Samples:
        stepwise = self._source.stepwise
        if stepwise.in_segments:
            return self._source.group([place])
        rows = self._source.samples(place)
        return rows if stepwise.mode == "faithful" or len(rows) > 1 else rows[0]

    def pixels(self, place: int) -> dict[str, torch.Tensor]:
        return self._source.pixels(place)

    def picture_targets(self, place: int) -> dict[str, torch.Tensor]:
        return self._source.picture_targets(place)

    def pictures(self, place: int) -> list[int]:
        return self.records.pictures(place)

    def _held(self, place: int) -> list[int]:
        return [place]
