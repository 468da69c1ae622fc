"""What a protocol is: items read from a benchmark's own files, a verdict on each, and numbers over all of them.

A protocol never sees the model. It says what is to be asked (`Item.asks`), judges what came back row by row, and sums
up rows that may have been read back from disk: so a run can stop anywhere and go on, and numbers can be made again
without a model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from PIL import Image

from lynx_moe.data import Record
from lynx_moe.evaluation.spoken_masks import Masks
from lynx_moe.families.dialects import Parsed
from lynx_moe.registry import Registry


@dataclass(frozen=True, kw_only=True, slots=True)
class Write:
    """The model is asked `record.question` about its picture and writes an answer."""

    record: Record


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """The model says how well `text` fits the picture; how is the run's choice (`lynx_moe.evaluation.scoring`).

    `question` is what a scorer that can be told what matters is told; `image_id` is the same for the same picture.
    """

    image_id: str
    load: Callable[[], Image.Image] = field(repr=False, compare=False)
    text: str
    question: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One row of the result: what is asked, in order, and what is true (plain data that JSON can hold).

    `id` is unique in the protocol, `group` the part of the benchmark that it counts in ("testA", "plurals").
    """

    id: str
    asks: tuple[Write | Score, ...]
    truth: dict
    group: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """What came back for one ask.

    Of `Write` the text, how its final part reads, a confidence for each of its boxes, how its earlier steps read, as
    far as the record has some, and a mask (or None) for each of its words for one; of `Score` the score alone, where
    higher means fits better.
    """

    text: str = ""
    parsed: Parsed = field(default_factory=Parsed)
    confidences: tuple[float, ...] = ()
    steps: tuple[Parsed, ...] = ()
    score: float | None = None
    masks: Masks = ()


@dataclass(kw_only=True, slots=True)
class Row:
    """The verdict on one item, with all that any sum over rows needs; what a Parquet file holds one line of.

    `right` is None where the item is not a matter of right or wrong; `numbers` are the protocol's own ("iou").
    `boxes` (xyxy, original pixels) and `confidences` are the answer's; `labels`, where a protocol tells boxes apart, is
    what it takes each one for. `errors` counts what could not be read.
    `picture` names the picture, or pictures, that were asked about; the run fills it in, to draw pictures, and not
    questions about the same one, when it says how sure a number is.
    """

    id: str
    group: str = ""
    asked: list[str] = field(default_factory=list)
    truth: dict = field(default_factory=dict)
    answers: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    boxes: list[list[float]] = field(default_factory=list)
    confidences: list[float] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    errors: dict[str, int] = field(default_factory=dict)
    right: bool | None = None
    numbers: dict[str, float] = field(default_factory=dict)
    picture: str = ""


class Protocol(ABC):
    """A benchmark as it is scored officially.

    A subclass is a dataclass: its fields are its settings (`folder`, `split`, and what else its files leave open), each
    with a default but `folder`.

    Attributes:
        name: the registered name.
        citation: whose protocol it is.
        headline: the name, in `summarise`'s result, of the one number that stands for it.
        higher_is_better: of the headline.
        max_new_tokens: answers are cut there, unless the run says otherwise.
        boxes_in: entries of an item's `truth` that hold a box or boxes (xyxy, original pixels), all of what a change of
            the picture moves; "steps.boxes" is that entry of each of a list. Without any, pictures may be made darker
            or noisier but not cropped or turned.
        faults: what could not be used, counted by kind as `items` meets it ("missing picture", "duplicate id").
    """

    name: ClassVar[str]
    citation: ClassVar[str]
    headline: ClassVar[str]
    higher_is_better: ClassVar[bool] = True
    max_new_tokens: ClassVar[int] = 256
    boxes_in: ClassVar[tuple[str, ...]] = ()
    folder: Path
    faults: Counter[str]

    @abstractmethod
    def items(self) -> Iterator[Item]:
        """All items in the files' own order; pictures are opened only when they are asked about.

        What cannot be used is counted in `faults` and left out.

        Raises:
            RecordError: the files are not there, or are not in the benchmark's format; or the split has no item.
        """

    @abstractmethod
    def judge(self, item: Item, replies: Sequence[Reply]) -> Row:
        """The verdict on `item`, from one reply per ask."""

    @abstractmethod
    def summarise(self, rows: Sequence[Row]) -> dict:
        """Numbers over all rows: `n`, `headline`'s, others, and `by_group`, plain enough for JSON.

        A number without anything to divide by is None.
        """


PROTOCOLS: Registry[type[Protocol]] = Registry("evaluation protocol")
