"""Several records per row as a torch dataset: which records share a row, and the row when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from lynx_moe.data.dataset import Screened
from lynx_moe.data.filling import fill
from lynx_moe.data.packing import chain
from lynx_moe.data.pictures import side_by_side
from lynx_moe.data.records import RecordSet
from lynx_moe.data.sample import SampleBuilder
from lynx_moe.data.screening import Screen
from lynx_moe.data.steps import WHOLE, Stepwise


class PackedDataset(Screened):
    """Several records per row, as many as `max_tokens` hold.

    A row holds groups: records of one picture behind its tokens. A record about several pictures, or of text only, is
    a group of its own. For models that pass `lynx_moe.data.packing.check_packable`, with this package's `Collator`.
    Every record is tokenised once when the dataset is made, to fill rows well; so all that cannot be learned from are
    left out there.

    Args:
        max_tokens: of a row, its pictures' included; a record that is longer by itself gets a row of its own. Longer
            rows cost attention that nobody uses, since records do not see each other; shorter ones repeat the picture.
        packing: "picture": one group per row. "sequence": as many as there is room for.
        share: whether records share a picture's tokens; else each repeats them, as flash attention needs. Only
            "sequence" can do without, and does where the chat template puts questions before the picture.
        stepwise: how stepwise answers are learned, "whole" or "packed".
        max_positions, traced: as for `SampleDataset`; "record_rows" (k,) then numbers all records of a row.

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
        max_positions: int | None = None,
        traced: bool = False,
    ):
        self._take(records, Screen(builder, max_positions, stepwise), range(len(records)), cache_bytes)
        self.packing = packing
        self.traced = traced
        groups = self.records.by_picture()
        sharing = next((some for each in groups if (some := self._several(each))), None)
        if packing == "picture" and sharing:
            self._source.prefix(sharing)  # raises
        self._share = share and (sharing is None or self._source.shares(sharing))
        # Each record is tokenised once on the way, and only its place is kept.
        pieces = (piece for group in groups for piece in self._pieces(group, max_tokens))
        self.groups = [[group] for group, _ in pieces] if packing == "picture" else list(fill(pieces, max_tokens))

    @property
    def rows(self) -> list[list[int]]:
        return [self._held(place) for place in range(len(self))]

    def __len__(self) -> int:
        return len(self.groups)

    def _held(self, place: int) -> list[int]:
        return [position for group in self.groups[place] for position in group]

    def text(self, place: int) -> dict[str, torch.Tensor]:
        groups, source = self.groups[place], self._source
        if self.packing == "picture":
            return source.group(groups[0])
        return chain([part for g in groups for part in (source.groups(g) if self._share else source.apart(g))])

    def pixels(self, place: int) -> dict[str, torch.Tensor]:
        return side_by_side([self._source.pixels(position) for position in self._shown(place)])

    def picture_targets(self, place: int) -> dict[str, torch.Tensor]:
        return side_by_side([self._source.picture_targets(position) for position in self._shown(place)])

    def pictures(self, place: int) -> list[int]:
        return [picture for position in self._shown(place) for picture in self.records.pictures(position)]

    def _shown(self, place: int) -> list[int]:
        """Positions of the records whose pictures stand in a row, as often as they do."""
        if self._share:
            return [group[0] for group in self.groups[place]]
        source = self._source
        return [p for group in self.groups[place] for p in group for t in source.tokens(p) if source.shows(p, t)]

    def _several(self, group: list[int]) -> list[int]:
        """Of a group so many records that they have more than one sample; none if it has only one."""
        if len(group) > 1:
            return group[:2]
        shown = [tokens for tokens in self._source.tokens(group[0]) if self._source.shows(group[0], tokens)]
        return group if len(shown) > 1 else []

    def _pieces(self, group: list[int], max_tokens: int) -> Iterator[tuple[list[int], int]]:
        """The group cut, in its order, into pieces that keep within `max_tokens` where they can, with their lengths."""
        if not self._share:
            yield from (([position], sum(self._source.lengths(position))) for position in group)
            return
        piece, length, room = [], 0, 0
        for position in group:
            tokens = self._source.tokens(position)
            shared = tokens[0].picture_at or 0  # tokens before the picture; its own placeholder counts as the record's
            behind = [each for each in tokens if self._source.shows(position, each)]
            own = sum(len(each.ids) for each in tokens) - shared * len(behind)
            if not piece or own > room:
                if piece:
                    yield piece, length
                pictures = sum(self._source.per_picture(position))
                piece, length, room = [], shared + pictures, max_tokens - shared - pictures
            piece.append(position)
            # Exactly: without the one placeholder of each of its pictures.
            length += own - len(behind) * len(tokens[0].pictures_at)
            room -= own
        yield piece, length
