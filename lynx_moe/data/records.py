"""Records: one question about one picture each, or about several, read row by row from memory-mapped tables.

Rows live in two memory-mapped tables, records and pictures. What is kept in memory is two integers per record: its
row and the row of its picture; and, where some are about several pictures, the rows of the others. Several records
share one picture, which is stored and decoded once.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from lynx_moe.data.linked import linked_bytes, open_linked
from lynx_moe.errors import RecordError
from lynx_moe.grounding import Mask

NO_PICTURE = -1

Corners = tuple[float, float, float, float]
Point = tuple[float, float]
Masks = tuple[Mask | None, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """One sentence of a stepwise answer; `{box:k}` in the text is the k-th of `boxes` (original pixels, xyxy), and
    `{mask:k}` the same one, spoken of by its mask.

    `picture` is which of the record's pictures, from 0, they lie in. `masks` are as those of a `Record`.
    """

    text: str
    boxes: tuple[Corners, ...] = ()
    objects: tuple[str, ...] = ()
    picture: int = 0
    masks: Masks = ()


@dataclass(frozen=True, slots=True)
class Picture:
    """A further picture of a record: its id, (width, height), and what decodes it."""

    image_id: str
    size: tuple[int, int]
    load: Callable[[], Image.Image] = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One question about one picture, or several, with its true answer. Boxes are original pixels, xyxy.

    `{box:k}` in the question is the k-th of `question_boxes`, in the answer the k-th of `boxes`; `{mask:k}` in an
    answer is the k-th of `boxes` spoken of by its mask, in a question the k-th of `question_boxes` shown by its mask,
    to models that learned visual prompts; `{point:k}`, in questions only, is the k-th of `question_points` (x, y).
    `size` is (width, height) of the picture, None for a text-only record. `image()` decodes the picture anew on each
    call. `more` are the second picture and those after it; `boxes` lie in picture number `picture`, from 0, and
    `question_boxes` in the first.
    `masks` has, for each of `boxes`, the visible pixels of the thing, or None where nobody knows them; `question_masks`
    the same for `question_boxes`. Those of a record that was read are decoded by `Mask.array()`, not before.
    """

    id: str
    question: str
    answer: str
    kind: str
    task: str
    image_id: str = ""
    steps: tuple[Step, ...] = ()
    boxes: tuple[Corners, ...] = ()
    question_boxes: tuple[Corners, ...] = ()
    question_points: tuple[Point, ...] = ()
    phrase: str = ""
    source: str = ""
    split: str = ""
    licence: str = ""
    seed: str = ""
    size: tuple[int, int] | None = None
    load: Callable[[], Image.Image] | None = field(default=None, repr=False, compare=False)
    more: tuple[Picture, ...] = ()
    picture: int = 0
    masks: Masks = ()
    question_masks: Masks = ()

    @property
    def has_image(self) -> bool:
        return self.load is not None

    @property
    def shows_places(self) -> bool:
        """Whether the question itself shows boxes or points."""
        return bool(self.question_boxes or self.question_points)

    @property
    def speaks_masks(self) -> bool:
        """Whether the answer speaks of its things by their masks, and of none by its box."""
        return "{mask:" in self.answer and "{box:" not in self.answer

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """(width, height) of each picture; none for a text-only record."""
        return () if self.size is None else (self.size, *(each.size for each in self.more))

    @property
    def is_grounding(self) -> bool:
        return self.kind == "grounding"

    def image(self, number: int = 0) -> Image.Image:
        """The picture, or that `number` of several, in RGB.

        Raises:
            RecordError: the record is text only, or its picture cannot be decoded.
        """
        if self.load is None:
            raise RecordError(f"record {self.id!r} has no picture", why="it is text only", fix="check has_image first")
        try:
            return (self.more[number - 1].load if number else self.load)().convert("RGB")
        except OSError as error:
            raise RecordError(
                f"the picture of record {self.id!r} cannot be decoded", why=str(error), fix="make the data again"
            ) from error


@dataclass(frozen=True, slots=True)
class Further:
    """Which further pictures the records of a whole table have.

    `starts` (all records + 1,): record r has rows `starts[r]` to `starts[r + 1]` of `image_rows`, (further pictures,)
    row numbers into the pictures' table.
    """

    starts: np.ndarray
    image_rows: np.ndarray

    def of(self, row: int) -> list[int]:
        """Row numbers of the further pictures of the record in that row."""
        return self.image_rows[self.starts[row] : self.starts[row + 1]].tolist()


class RecordSet(Sequence[Record]):
    """Records of one split, in a fixed order; subsets share the tables.

    Args:
        records: table of records (a `datasets.Dataset`).
        images: table of pictures, or None when all records are text only.
        sizes: (pictures, 2) width and height of every picture.
        rows: (n,) row numbers into `records`.
        image_rows: (n,) row numbers into `images`, -1 where a record has no picture.
        pictures_root: folder of the pictures that the table only names; None when all are stored.
        further: the second and later pictures of all records of the table; None when no record has any.
    """

    def __init__(
        self,
        records,
        images,
        sizes: np.ndarray,
        rows: np.ndarray,
        image_rows: np.ndarray,
        pictures_root: Path | None = None,
        further: Further | None = None,
    ):
        self._records = records
        self._images = images
        self._sizes = sizes
        self._rows = rows
        self._image_rows = image_rows
        self._pictures_root = pictures_root
        self._further = further

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Record:
        if not -len(self) <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        row = self._records[int(self._rows[index])]
        pictures = self.pictures(index)
        sizes = tuple(map(self._size, pictures))
        return Record(
            id=row["id"],
            image_id=row["image_id"],
            question=row["question"],
            answer=row["answer"],
            kind=row["kind"],
            task=row["task"],
            steps=tuple(
                Step(
                    text=s["text"],
                    boxes=_corners(s["boxes"]),
                    objects=tuple(s.get("objects") or ()),
                    picture=s.get("picture") or 0,
                    masks=_masks(s, sizes, row["id"]),
                )
                for s in row["steps"] or ()
            ),
            boxes=_corners(row["boxes"]),
            question_boxes=_corners(row.get("question_boxes")),
            question_points=_corners(row.get("question_points")),
            phrase=row["phrase"] or "",
            source=row["source"],
            split=row["split"],
            licence=row["licence"],
            seed=str(row.get("seed") or ""),
            size=sizes[0] if sizes else None,
            load=partial(self._decode, pictures[0]) if pictures else None,
            more=tuple(
                Picture(image_id, size, partial(self._decode, k))
                for image_id, size, k in zip(row.get("more_image_ids") or (), sizes[1:], pictures[1:], strict=True)
            ),
            picture=row.get("picture") or 0,
            masks=_masks(row, sizes, row["id"]),
            question_masks=_masks(row, sizes, row["id"], boxes="question_boxes", masks="question_masks"),
        )

    def __iter__(self) -> Iterator[Record]:
        return (self[index] for index in range(len(self)))

    def _decode(self, picture: int) -> Image.Image:
        stored = self._images[picture]["image"]
        if stored["bytes"] is None:
            return open_linked(self._pictures_root, stored["path"], self._size(picture))
        return Image.open(BytesIO(stored["bytes"]))

    def fingerprint(self, picture: int) -> bytes:
        """sha256 of a picture, by its number, as it is stored: encoded, never decoded.

        Raises:
            RecordError: the data only names it, and it is not there.
        """
        stored = self._images[picture]["image"]
        encoded = stored["bytes"]
        if encoded is None:
            encoded = linked_bytes(self._pictures_root, stored["path"])
        # The same file in another frame (a camera's turn undone or not) is another picture.
        return hashlib.sha256(repr(self._size(picture)).encode() + encoded).digest()

    def picture(self, index: int) -> int:
        """Number of the picture of record `index`, the same for records that share it; -1 for none."""
        return int(self._image_rows[index])

    def pictures(self, index: int) -> list[int]:
        """Numbers of all pictures of record `index`, in order; none for a text-only record."""
        first = self.picture(index)
        if first == NO_PICTURE:
            return []
        return [first, *(self._further.of(int(self._rows[index])) if self._further is not None else ())]

    def size(self, index: int) -> tuple[int, int] | None:
        """(width, height) of the (first) picture of record `index`; None for none."""
        picture = self.picture(index)
        return None if picture == NO_PICTURE else self._size(picture)

    def sizes(self, index: int) -> tuple[tuple[int, int], ...]:
        """(width, height) of every picture of record `index`."""
        return tuple(map(self._size, self.pictures(index)))

    def _size(self, picture: int) -> tuple[int, int]:
        return tuple(self._sizes[picture].tolist())

    def by_picture(self) -> list[list[int]]:
        """Positions of the records of each picture, in order of first appearance.

        A record of text only, or about several pictures, stands alone.
        """
        alone = self._image_rows == NO_PICTURE
        if self._further is not None:
            alone |= np.diff(self._further.starts)[self._rows] > 0
        groups: dict[int, list[int]] = {}
        for position, (picture, by_itself) in enumerate(zip(self._image_rows.tolist(), alone.tolist(), strict=True)):
            # Negative keys cannot meet a picture's row, and no two records share one.
            groups.setdefault(-2 - position if by_itself else picture, []).append(position)
        return list(groups.values())

    def select(self, positions: Sequence[int]) -> RecordSet:
        """The records at `positions`, in that order."""
        chosen = np.asarray(positions, dtype=np.int64)
        return RecordSet(
            self._records, self._images, self._sizes, self._rows[chosen], self._image_rows[chosen],
            self._pictures_root, self._further,
        )  # fmt: skip

    def counts(self) -> Counter[str]:
        """How many records each task has."""
        return Counter(self.column("task"))

    def column(self, name: str, positions: Sequence[int] | None = None) -> list:
        """One field of every record, or of those at `positions`, without building the records; quick for `id`,
        `question`, `task` and `kind`.
        """
        rows = self._rows if positions is None else self._rows[np.asarray(positions, dtype=np.int64)]
        # Whole Arrow column, then the rows: a thousand times quicker than row by row.
        return self._records.data.column(name).take(pa.array(rows)).to_pylist()


def _corners(places: Sequence[Sequence[float]] | None) -> tuple[tuple[float, ...], ...]:
    """Boxes or points; folders made before there were any lack the column, which is none of them."""
    return tuple(tuple(float(value) for value in place) for place in places or ())


def _masks(
    part: Mapping[str, Any], sizes: Sequence[tuple[int, int]], id: str, *, boxes: str = "boxes", masks: str = "masks"
) -> Masks:
    """One mask or None for each box of a part of a row; folders made before there were any, or without, have none."""
    stored, wanted = part.get(masks), len(part.get(boxes) or ())
    if not stored:
        return (None,) * wanted
    picture = (part.get("picture") or 0) if masks == "masks" else 0  # what a question shows lies in the first
    size = sizes[picture] if picture < len(sizes) else None
    found = tuple(mask and Mask.of_coco(mask) for mask in stored)
    if len(found) != wanted or any(mask and mask.size != size for mask in found):
        raise RecordError(
            f"the masks of record {id!r} are not those of its boxes",
            why=f"{len(found)} masks for {wanted} boxes, or one of another size than the picture's {size}",
            fix="make the data again",
        )
    return found
