"""What'sUp: the same two things photographed in four arrangements, and which of the captions is true."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from lynx_moe.evaluation.protocols.base import PROTOCOLS, Item, Reply, Row, Score
from lynx_moe.evaluation.protocols.files import FileProtocol, Files
from lynx_moe.evaluation.protocols.ranking import averages, first_wins, mean, scored_row, scores_of
from lynx_moe.interval import mean_interval

OPPOSITE = {"left": "right", "on": "under", "front": "behind"} | {"right": "left", "under": "on", "behind": "front"}
ALL_WAYS = {"on": "on, or under", "front": "in front of, or behind"}
CHANCE = {
    "pair": 1 / 4, "individual": 1 / 2, "pair_4way": 1 / 16, "individual_4way": 1 / 4,
    "set": 1 / 16, "set_4way": 1 / 256,
}  # fmt: skip
PER_PAIR = tuple(CHANCE)[:4]


@dataclass(kw_only=True)
class WhatsUp(FileProtocol):
    """An item is a pair of pictures in opposite arrangements, each scored against its captions.

    2-way: the true caption against that of the opposite arrangement; 4-way: against all three others. `individual`
    counts pictures, `pair` both of a pair, `set` all four of two things. A pair without both pictures is left out, and
    so is a set without both pairs. The questions are those of arXiv 2411.05195, for scorers that read them.
    """

    headline = "pair"
    annotations: ClassVar[str]
    vertical: ClassVar[str]  # the arrangement beside left and right

    def _items(self, files: Files) -> Iterator[Item]:
        halves: dict[tuple[str, str], dict[str, tuple]] = {}
        for row in files.rows(files.find(self.annotations)):
            picture = self._picture(files, row)
            if picture is not None:
                things, relation = picture[:2]
                half = halves.setdefault((things, min(relation, OPPOSITE[relation])), {})
                if relation in half:
                    files.faults["duplicate id"] += 1
                half.setdefault(relation, picture)
        for (things, _), half in halves.items():
            if len(half) == 2:
                yield self._item(things, half)
            else:
                files.faults["pair without both pictures"] += 1

    def _picture(self, files: Files, row: dict) -> tuple | None:
        """(things, relation, name, load, captions with the true one first, its opposite second)."""
        taken = files.take(row, image_path=str, caption_options=list)
        if taken is None:
            return None
        name, captions = taken
        relations = [_relation(c) for c in captions]
        parts = name.rpartition("/")[2].rpartition(".")[0].split("_")
        if len(captions) != 4 or None in relations or OPPOSITE[relations[0]] not in relations or len(parts) < 3:
            files.faults["row without four captions of arrangements"] += 1
            return None
        load = files.picture(name, name.removeprefix("data/"))
        if load is None:
            return None
        opposite = captions[relations.index(OPPOSITE[relations[0]])]
        others = [c for c in captions[1:] if c != opposite]
        return f"{parts[0]} {parts[-1]}", relations[0], name, load, [captions[0], opposite, *others]

    def _item(self, things: str, half: dict[str, tuple]) -> Item:
        first, second = (thing.replace("-", " ") for thing in things.split(" "))
        asks = []
        for relation, (_, _, name, load, captions) in half.items():
            two, four = _two_ways(relation, first, second), self._four_ways(first, second)
            asks += [Score(image_id=name, load=load, text=c, question=two) for c in captions[:2]]
            asks += [Score(image_id=name, load=load, text=c, question=four) for c in captions]
        axis = "_".join(sorted(half))
        return Item(
            id=f"{things}/{axis}",
            asks=tuple(asks),
            truth={"images": [picture[2] for picture in half.values()], "things": things, "relations": list(half)},
            group=axis,
        )

    def _four_ways(self, first: str, second: str) -> str:
        return f"Is the {first} to the left of, to the right of, {ALL_WAYS[self.vertical]} the {second}?"

    def judge(self, item: Item, replies: Sequence[Reply]) -> Row:
        """For each picture two scores for 2-way and four for 4-way, the true caption's first; strict inequalities."""
        scores = scores_of(replies)
        two = [first_wins(scores[start : start + 2]) for start in (0, 6)]
        four = [first_wins(scores[start + 2 : start + 6]) for start in (0, 6)]
        numbers = {
            "pair": all(two), "individual": sum(two) / 2, "pair_4way": all(four), "individual_4way": sum(four) / 2,
        }  # fmt: skip
        return scored_row(item, scores, numbers, all(two))

    def summarise(self, rows: Sequence[Row]) -> dict:
        """`individual`, `pair`, `set`, and each `_4way`; by arrangement, without the set."""
        found = averages(rows, {name: CHANCE[name] for name in PER_PAIR})
        sets: dict[str, dict[str, Row]] = {}
        for row in rows:
            sets.setdefault(row.truth["things"], {})[row.group] = row
        whole = [list(pairs.values()) for pairs in sets.values() if len(pairs) == 2]
        for name in ("set", "set_4way"):
            values = [float(all(row.numbers[name.replace("set", "pair")] for row in pairs)) for pairs in whole]
            found |= {name: mean(values)}
            found["chance"][name] = CHANCE[name]
            found["interval"][name] = list(mean_interval(values)) if values else None
        return found | {"sets": len(whole)}


@PROTOCOLS.register("whatsup_a")
@dataclass(kw_only=True)
class WhatsUpA(WhatsUp):
    """What'sUp A: left, right, on or under a thing of the house; individual, pair and set accuracy, 2-way and 4-way."""

    name = "whatsup_a"
    citation = "Kamath, Hessel and Chang, EMNLP 2023 (arXiv 2310.19785); 2-way as in arXiv 2411.05195"
    files = "`controlled_images_dataset.json`, `controlled_images/`"
    oracle = "amitakamath/whatsup_vlms `dataset_zoo/aro_datasets.py`; lst627/CLIP-Embeds `VLM2Vec/eval_llava15.py`"
    annotations = "controlled_images_dataset.json"
    vertical = "on"


@PROTOCOLS.register("whatsup_b")
@dataclass(kw_only=True)
class WhatsUpB(WhatsUp):
    """What'sUp B: left, right, in front of or behind a thing on a table; accuracies as in What'sUp A."""

    name = "whatsup_b"
    citation = WhatsUpA.citation
    files = "`controlled_clevr_dataset.json`, `controlled_clevr/`"
    oracle = WhatsUpA.oracle
    annotations = "controlled_clevr_dataset.json"
    vertical = "front"


def _relation(caption: object) -> str | None:
    """The one word of an arrangement that a caption holds."""
    found = {word for word in str(caption).split() if word in OPPOSITE}
    return found.pop() if len(found) == 1 else None


def _two_ways(relation: str, first: str, second: str) -> str:
    if relation in ("left", "right"):
        return f"Is the {first} to the left of or to the right of the {second}?"
    if relation in ("on", "under"):
        return f"Is the {first} at the bottom of the {second} or at the top of the {second}?"
    return f"Is the {first} in the back of the {second} or in the front of the {second}?"
