"""What all protocols that score places share: settings, items that are counted, verdicts, numbers with intervals."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import ClassVar

import numpy as np

from lynx_moe.data import Record
from lynx_moe.errors import ConfigError, RecordError
from lynx_moe.evaluation.protocols.base import Item, Protocol, Reply, Row, Write
from lynx_moe.evaluation.protocols.files import setting
from lynx_moe.evaluation.protocols.picture_files import Picture, PictureFiles
from lynx_moe.evaluation.protocols.ranking import mean
from lynx_moe.grounding import Box
from lynx_moe.interval import bootstrap_interval

UNRANKED = 1.0  # the confidence of a box whose reply has none: all rank alike, and the order of writing decides


@dataclass(kw_only=True)
class GroundingProtocol(Protocol):
    """Base of protocols about boxes and masks in one picture each.

    A subclass says how its files are read (`read`), what a reply is worth (`judge`) and what rows sum up to
    (`numbers`). Items are counted on the way out: a repeated id is left out and counted, and without any item the
    split is refused.

    Attributes:
        files: what lies in the folder, for the docs.
        oracle: the published code that the numbers are held against in the tests.
        pictures_usual: folders below `folder` where the pictures usually are.
    """

    files: ClassVar[str]
    oracle: ClassVar[str]
    pictures_usual: ClassVar[tuple[str, ...]] = ("images",)

    folder: Path = field(metadata={"help": "folder with the benchmark's own files"})
    images: str = setting("", "folder of the pictures, relative to `folder`; empty: the usual places")
    faults: Counter[str] = field(default_factory=Counter, init=False, repr=False)
    _known: frozenset[str] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        self.folder = Path(self.folder)

    @abstractmethod
    def read(self) -> Iterator[Item]:
        """All items of the files; what cannot be used is counted in `faults`."""

    @abstractmethod
    def numbers(self, rows: Sequence[Row]) -> dict:
        """The numbers over rows, also over those of one group; `headline` among them."""

    def items(self) -> Iterator[Item]:
        self.faults.clear()
        self._known = None
        seen: set[str] = set()
        for item in self.read():
            if item.id in seen:
                self.faults["duplicate id"] += 1
                continue
            seen.add(item.id)
            yield item
        if not seen:
            raise RecordError(
                f"{self.name} finds nothing to ask in {self.folder}",
                why=f"left out: {dict(self.faults)}" if self.faults else "no row is in the split that was asked for",
                fix=f"check the settings {self.settings()} against the files",
            )
        self._known = frozenset(seen)

    def settings(self) -> dict[str, object]:
        """The settings by name, but for the folder; plain enough for JSON."""
        values = {one.name: getattr(self, one.name) for one in fields(self) if one.init and one.name != "folder"}
        return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}

    def summarise(self, rows: Sequence[Row]) -> dict:
        """Numbers over all rows, by group, and what was left out.

        A row whose id came before is left out and counted, and so is one that no item has, once `items` was read to its
        end. `faults` in the result are those of `items` and these. `unanswered` counts items without a row, None
        before `items` was read.
        """
        faults = Counter(self.faults)
        by_id: dict[str, Row] = {}
        for row in rows:
            if row.id in by_id:
                faults["two answers for one id"] += 1
            elif self._known is not None and row.id not in self._known:
                faults["answer for an unknown id"] += 1
            else:
                by_id[row.id] = row
        kept = list(by_id.values())
        groups: dict[str, list[Row]] = {}
        for row in kept:
            for group in self.groups_of(row):
                groups.setdefault(group, []).append(row)
        return {
            "n": len(kept),
            **self.numbers(kept),
            "by_group": {group: {"n": len(some), **self.numbers(some)} for group, some in sorted(groups.items())},
            "unreadable": mean(bool(row.errors) for row in kept),
            "errors": dict(sorted(sum((Counter(row.errors) for row in kept), Counter()).items())),
            "unanswered": None if self._known is None else len(self._known) - len(kept),
            "faults": dict(sorted(faults.items())),
        }

    def groups_of(self, row: Row) -> Sequence[str]:
        """The groups that a row counts in."""
        return (row.group,) if row.group else ()

    def pictures(self) -> PictureFiles:
        """The pictures; raises RecordError when there is no folder of them."""
        return PictureFiles.below(self.folder, self.images, self.picture_places(), self.faults)

    def picture_places(self) -> Sequence[str]:
        """Folders, relative to `folder`, where the pictures may be."""
        return self.pictures_usual

    def ask(self, picture: Picture, question: str, id: str, phrase: str = "") -> Write:
        """The question about a picture, with no true answer in it."""
        return Write(
            record=Record(
                id=id,
                question=question,
                answer="",
                kind="grounding",
                task=self.name,
                image_id=picture.file,
                phrase=phrase,
                source=self.name,
                size=picture.size,
                load=picture.load,
            )
        )


def words(template: str, may: Mapping[str, str] | None = None, **parts: str) -> str:
    """`template` with each `{name}` of `parts` filled in, those of `may` where they stand, and nothing else touched.

    Raises:
        ConfigError: the template lacks one of the places.
    """
    for name in parts:
        if "{" + name + "}" not in template:
            raise ConfigError(
                f"the prompt {template!r} has no place for the {name}",
                why="every question would be the same",
                fix=f"write {{{name}}} where it belongs",
            )
    # One pass, so that a phrase with braces in it is not filled in turn.
    parts |= may or {}
    pieces = template.split("{")
    out = pieces[0]
    for piece in pieces[1:]:
        name, closed, rest = piece.partition("}")
        out += parts[name] + rest if closed and name in parts else "{" + piece
    return out


def row_of(item: Item, replies: Sequence[Reply], **verdict) -> Row:
    """The row of an item: what was asked and answered, all boxes of all replies in order, and the verdict."""
    row = Row(
        id=item.id,
        group=item.group,
        asked=[ask.record.question for ask in item.asks if isinstance(ask, Write)],
        truth=item.truth,
        answers=[reply.text for reply in replies],
        boxes=[list(map(float, box)) for reply in replies for box in reply.parsed.boxes],
        confidences=[value for reply in replies for value in confidences_of(reply)],
        errors=dict(sorted(sum((Counter(reply.parsed.errors) for reply in replies), Counter()).items())),
    )
    for name, value in verdict.items():
        setattr(row, name, value)
    return row


def confidences_of(reply: Reply) -> list[float]:
    """A confidence for each box of a reply: its own, or `UNRANKED` for all where it has not one finite number each."""
    return [float(value) for value in reply.confidences] if is_ranked(reply) else [UNRANKED] * len(reply.parsed.boxes)


def is_ranked(reply: Reply) -> bool:
    """Whether a reply has one finite confidence for each of its boxes."""
    return len(reply.confidences) == len(reply.parsed.boxes) and all(map(math.isfinite, reply.confidences))


def first_box(reply: Reply) -> Box | None:
    """The box that stands for an answer: the first one, whatever else was written."""
    return reply.parsed.boxes[0] if reply.parsed.boxes else None


def picture_interval(rows: Sequence[Row], values: Sequence[float]) -> list[float] | None:
    """95 % interval of the mean of `values`, one per row, by drawing pictures (`truth["image"]`) with replacement.

    Questions about one picture are right or wrong together, so it is pictures that are drawn. None for fewer than two.
    """
    return ratio_interval(rows, values, [1.0] * len(rows))


def ratio_interval(rows: Sequence[Row], above: Sequence[float], below: Sequence[float]) -> list[float] | None:
    """As `picture_interval`, of the sum of `above` over the sum of `below`."""
    order: dict[str, int] = {}
    place = [order.setdefault(str(row.truth.get("image", row.id)), len(order)) for row in rows]
    if len(order) < 2:
        return None
    above_P = np.bincount(place, weights=np.asarray(above, dtype=float), minlength=len(order))
    below_P = np.bincount(place, weights=np.asarray(below, dtype=float), minlength=len(order))

    def ratio(counts_P: np.ndarray) -> float | None:
        under = counts_P @ below_P
        return float(counts_P @ above_P / under) if under else None

    found = bootstrap_interval(ratio, len(order))
    return None if found is None else [found[0], found[1]]
