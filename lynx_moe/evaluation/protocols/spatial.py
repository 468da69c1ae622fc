"""COCO-spatial and GQA-spatial of What'sUp: a true caption about a place in a natural picture against its opposite."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from lynx_moe.evaluation.protocols.base import PROTOCOLS, Item, Reply, Row, Score
from lynx_moe.evaluation.protocols.files import FileProtocol, Files, setting
from lynx_moe.evaluation.protocols.ranking import averages, first_wins, scored_row, scores_of
from lynx_moe.evaluation.protocols.whatsup import WhatsUpA

PAIRS = (("left", "right"), ("top", "bottom"), ("above", "below"), ("front", "behind"))
OPPOSITE = dict(PAIRS) | {b: a for a, b in PAIRS}
PHOTO = "A photo of a "


@dataclass(kw_only=True)
class Spatial(FileProtocol):
    """s(true caption) > s(false caption), by place word and by the pair of words it is one of; one thing or two."""

    headline = "accuracy"
    prefix: ClassVar[str]

    objects: str = setting("both", "captions about one object, two, or both")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._among("objects", ("one", "two", "both"))

    def _items(self, files: Files) -> Iterator[Item]:
        for objects in ("one", "two") if self.objects == "both" else (self.objects,):
            path = files.find(f"{self.prefix}_qa_{objects}_obj.json")
            rows = files.document(path)
            for number, row in enumerate(rows if isinstance(rows, list) else ()):
                if not (isinstance(row, list) and len(row) == 3 and all(isinstance(c, str) for c in row[1:])):
                    files.faults["unreadable row"] += 1
                    continue
                image, caption, false = str(row[0]), row[1], row[2]
                # An object's name may hold one too ("a tank top"): the place is what the two captions differ in.
                words = [word for word in caption.split() if word in OPPOSITE and word not in false.split()]
                if len(set(words)) != 1:
                    files.faults["captions that do not differ in one word of place"] += 1
                    continue
                name = self._file(image)
                load = files.picture(name)
                if load is not None:
                    question = question_of(caption, words[0], number)
                    yield Item(
                        id=f"{objects}/{number}",
                        asks=tuple(
                            Score(image_id=name, load=load, text=c, question=question) for c in (caption, false)
                        ),
                        truth={"images": [name], "objects": objects, "place": words[0]},
                        group=objects,
                    )

    def judge(self, item: Item, replies: Sequence[Reply]) -> Row:
        """Right if the true caption's score is greater."""
        scores = scores_of(replies)
        right = first_wins(scores)
        return scored_row(item, scores, {"accuracy": right}, right)

    def summarise(self, rows: Sequence[Row]) -> dict:
        """`accuracy`; by number of objects, by word, and by pair of words."""
        ways = {
            "by_place": lambda row: [row.truth["place"]],
            "by_pair": lambda row: ["_".join(pair) for pair in PAIRS if row.truth["place"] in pair],
        }
        return averages(rows, {"accuracy": 1 / 2}, subsets=ways)

    @abstractmethod
    def _file(self, image: str) -> str:
        """Where the picture of that id lies."""


@PROTOCOLS.register("coco_spatial")
@dataclass(kw_only=True)
class CocoSpatial(Spatial):
    """COCO pictures: a thing is left, right, above or below, by itself or of another."""

    name = "coco_spatial"
    citation = WhatsUpA.citation
    files = "`coco_qa_one_obj.json`, `coco_qa_two_obj.json`, `val2017/`"
    oracle = WhatsUpA.oracle
    prefix = "coco"

    def _file(self, image: str) -> str:
        return f"val2017/{image.zfill(12)}.jpg"


@PROTOCOLS.register("gqa_spatial")
@dataclass(kw_only=True)
class GqaSpatial(Spatial):
    """Visual Genome pictures, from GQA: a thing is left, right, in front, behind, on top or at the bottom."""

    name = "gqa_spatial"
    citation = WhatsUpA.citation
    files = "`vg_qa_one_obj.json`, `vg_qa_two_obj.json`, `vg_images/`"
    oracle = WhatsUpA.oracle
    prefix = "vg"

    def _file(self, image: str) -> str:
        return f"vg_images/{image}.jpg"


def question_of(caption: str, place: str, number: int) -> str:
    """The question with both places in it, for scorers that read it, as arXiv 2411.05195's code words it.

    Which place comes first is drawn there; here the number of the row decides, so that a run can be made again.

    >>> question_of("A photo of a dog to the left of a cat", "left", 0)
    'Is the dog to the left of a cat or to the right of a cat?'
    """
    whole = caption.removeprefix(PHOTO)
    starts = [whole.find(start) for start in ("on the ", "to the ", "above ", "below ", "in front ", "behind ")]
    start = min((at for at in starts if at >= 0), default=whole.find(place))
    swapped = [word if word != place else OPPOSITE[place] for word in whole.split(" ")]
    other = " ".join(swapped)
    one, two = (whole, other[start:]) if number % 2 == 0 else (other, whole[start:])
    return f"Is the {one} or {two}?"
