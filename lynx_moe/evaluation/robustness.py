"""A protocol on changed pictures: the same questions, with the truth moved where the picture moved it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image

from lynx_moe.data import Record
from lynx_moe.errors import ConfigError
from lynx_moe.evaluation.measuring import chosen, unique
from lynx_moe.evaluation.picture_changes import CHANGES, Change, Moved, chance, checked_level
from lynx_moe.evaluation.protocols.base import Item, Protocol, Reply, Row, Score, Write
from lynx_moe.grounding import Mask

SEEN = 0.5  # share of a box that must stay in the picture for the thing still to be there (our choice)
GONE = "truth that left the changed picture"
SEVERAL = "question about several pictures, which are not cropped or turned"
# A crop may take what was to be counted, and no box says so.
PLACELESS = "truth without a place, which a moved picture may make untrue"


@dataclass
class Changed(Protocol):
    """`inner`, asked about pictures under the change `change` at `level`; judged and summed up by `inner`.

    What a picture gets depends on its id, not on the order of items. Of a box the smallest upright box around its moved
    corners is true afterwards. Items of which a true box, or a place that the question shows, keeps less than half of
    its area in the picture are left out and counted; so are, where things move, items whose truth names no place.

    Args:
        limit: look at only so many items of `inner`, the ones that are asked of it unchanged under the same limit.

    Raises:
        ConfigError: no such change or level; or the change moves things and the protocol names no places in its
            truth (`boxes_in`).
    """

    inner: Protocol
    change: str
    level: int
    limit: int | None = None
    faults: Counter[str] = field(default_factory=Counter)

    def __post_init__(self):
        self._change: Change = CHANGES.get(self.change)
        checked_level(self.level)
        if self._change.move and not self.inner.boxes_in:
            raise ConfigError(
                f"{self.inner.name} cannot be asked under {self.change}",
                why="it moves things, and the protocol names no entries of its truth that are boxes and could move too",
                fix="leave this change or this protocol out; of a protocol of your own, name them in boxes_in",
            )

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def citation(self) -> str:
        return self.inner.citation

    @property
    def headline(self) -> str:
        return self.inner.headline

    @property
    def higher_is_better(self) -> bool:
        return self.inner.higher_is_better

    @property
    def max_new_tokens(self) -> int:
        return self.inner.max_new_tokens

    @property
    def folder(self) -> Path:
        return self.inner.folder

    def items(self) -> Iterator[Item]:
        self.inner.faults.clear()
        left_out: Counter[str] = Counter()
        for item in chosen(unique(self.inner.items(), Counter()), self.limit):
            made = self._moved(item) if self._change.move else self._painted(item)
            if isinstance(made, str):
                left_out[made] += 1
            else:
                yield made
        self.faults.clear()
        self.faults.update(self.inner.faults + left_out)

    def judge(self, item: Item, replies: Sequence[Reply]) -> Row:
        return self.inner.judge(item, replies)

    def summarise(self, rows: Sequence[Row]) -> dict:
        return self.inner.summarise(rows)

    def _painted(self, item: Item) -> Item:
        return replace(item, asks=tuple(map(self._painted_ask, item.asks)))

    def _painted_ask(self, ask: Write | Score) -> Write | Score:
        if isinstance(ask, Score):
            return replace(ask, image_id=self._named(ask.image_id), load=self._paint(ask.load, ask.image_id))
        record = ask.record
        if not record.has_image:
            return ask
        more = tuple(
            replace(each, image_id=self._named(each.image_id), load=self._paint(each.load, each.image_id))
            for each in record.more
        )
        load = self._paint(record.load, name_of(record))
        return Write(record=replace(record, image_id=self._named(record.image_id), load=load, more=more))

    def _named(self, image_id: str) -> str:
        """Another picture has another id: whoever remembers pictures by it must not take one for the other."""
        return image_id and f"{image_id} under {self.change} {self.level}"

    def _paint(self, load: Callable[[], Image.Image], image_id: str) -> Callable[[], Image.Image]:
        return lambda: self._change.paint(load(), self.level, chance(self.change, image_id))

    def _moved(self, item: Item) -> Item | str:
        """The item about the moved picture, or why it cannot be asked about it."""
        if not any(named(item.truth, path.split(".")) for path in self.inner.boxes_in):
            return PLACELESS
        records = [ask.record for ask in item.asks if isinstance(ask, Write)]
        if len(records) < len(item.asks) or any(r.more for r in records) or len({*map(name_of, records)}) > 1:
            return SEVERAL
        size = records[0].size
        moved = self._change.move(size, self.level, chance(self.change, name_of(records[0])))
        truth = item.truth
        try:
            for path in self.inner.boxes_in:
                truth = moved_at(truth, path.split("."), moved)
            asks = tuple(Write(record=moved_question(self._painted_ask(ask).record, moved)) for ask in item.asks)
        except LeftThePicture:
            return GONE
        changed = {name: resized(truth[name], size, moved.size) for name in ("size", "sizes") if name in truth}
        if "masks" in truth:  # as COCO writes them, None where nobody knows one
            changed["masks"] = [mask and moved.mask(Mask.of_coco(mask)).to_coco() for mask in truth["masks"]]
        return replace(item, asks=asks, truth=truth | changed)


class LeftThePicture(Exception):
    """A true box is not in the changed picture any more."""


def name_of(record: Record) -> str:
    return record.image_id or record.id


def moved_question(record: Record, moved: Moved) -> Record:
    """`record` with its size and its places in the changed picture; raises LeftThePicture."""
    points = tuple(moved.point(point) for point in record.question_points)
    if not all(inside(point, moved.size) for point in points):
        raise LeftThePicture
    boxes, shown = (
        tuple(map(tuple, moved_at(list(map(list, each)), [], moved))) for each in (record.boxes, record.question_boxes)
    )
    masks, shown_masks = (
        tuple(mask and moved.mask(mask) for mask in each) for each in (record.masks, record.question_masks)
    )
    return replace(
        record,
        size=moved.size,
        boxes=boxes,
        question_boxes=shown,
        question_points=points,
        masks=masks,
        question_masks=shown_masks,
    )


def inside(point: tuple[float, float], size: tuple[int, int]) -> bool:
    return all(0 <= place <= side for place, side in zip(point, size, strict=True))


def named(value: Any, path: Sequence[str]) -> bool:
    """Whether there is any box at `path`."""
    if not value:
        return False
    if isinstance(value, list) and path:
        return any(named(each, path) for each in value)
    return not path or named(value.get(path[0]), path[1:])


def moved_at(value: Any, path: Sequence[str], moved: Moved) -> Any:
    """`value` with the boxes at `path` moved: a box, lists of boxes, or lists of dictionaries that hold some.

    Raises:
        LeftThePicture: of a box less than `SEEN` is left.
    """
    if not value:
        return value
    if isinstance(value, list) and (path or not isinstance(value[0], int | float)):
        return [moved_at(each, path, moved) for each in value]
    if path:
        return {**value, path[0]: moved_at(value.get(path[0]), path[1:], moved)}
    box, share = moved.box(value)
    if share < SEEN:
        raise LeftThePicture
    return list(box)


def resized(value: Any, old: tuple[int, int], new: tuple[int, int]) -> Any:
    """(width, height), or a list of such, with the picture's old size replaced by the new one."""
    if value and isinstance(value[0], int | float):
        return list(new) if tuple(value) == tuple(old) else value
    return [resized(each, old, new) for each in value]
