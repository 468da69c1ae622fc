"""POPE: is the thing in the picture, or is it made up?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from lynx_moe.evaluation.protocols.base import PROTOCOLS, Item, Reply, Row, Write
from lynx_moe.evaluation.protocols.files import FileProtocol, Files, setting
from lynx_moe.evaluation.protocols.ranking import mean, written_row
from lynx_moe.evaluation.protocols.vqa import SHORT

KINDS = ("random", "popular", "adversarial")


@PROTOCOLS.register("pope")
@dataclass(kw_only=True)
class Pope(FileProtocol):
    """Accuracy, F1, precision, recall and the share of yes, "yes" being positive, over all questions and by kind.

    The authors' rule: of the first sentence, an answer is no if it holds the word "No", "no" or "not", and else yes. So
    an answer that says neither counts as yes; those are counted in `neither`.
    """

    name = "pope"
    citation = "Li et al., EMNLP 2023 (arXiv 2305.10355)"
    headline = "f1"
    files = "`coco_pope_random.json`, `coco_pope_popular.json`, `coco_pope_adversarial.json` (lines), `val2014/`"
    oracle = "AoiDragon/POPE `evaluate.py`, as LLaVA's `eval_pope.py` has it"
    max_new_tokens: ClassVar[int] = 128

    kind: str = setting("all", "random, popular, adversarial or all")
    dataset: str = setting("coco", "how the files' names begin: coco, aokvqa or gqa")
    images: str = setting("val2014", "folder of the pictures")
    prompt: str = setting(
        "{question}" + SHORT, "the question as asked; {question} is the benchmark's (LLaVA-1.5's words)"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self._among("kind", (*KINDS, "all"))

    def _items(self, files: Files) -> Iterator[Item]:
        for kind in KINDS if self.kind == "all" else (self.kind,):
            for row in files.rows(files.find(*(f"{self.dataset}_pope_{kind}{end}" for end in (".json", ".jsonl")))):
                taken = files.take(row, question_id=int, image=str, text=str, label=str)
                if taken is None:
                    continue
                number, image, question, label = taken
                if label not in ("yes", "no"):
                    files.faults["row without a usable label"] += 1
                    continue
                shown = files.sized_picture(f"{self.images}/{image}")
                if shown is not None:
                    key = f"{kind}/{number}"
                    record = self._record(key, self.prompt.replace("{question}", question), label, image, shown)
                    yield Item(
                        id=key, asks=(Write(record=record),), truth={"images": [image], "label": label}, group=kind
                    )

    def judge(self, item: Item, replies: Sequence[Reply]) -> Row:
        """Yes or no, against the label."""
        text = replies[0].text
        yes = says_yes(text)
        right = yes == (item.truth["label"] == "yes")
        row = written_row(item, replies, {"accuracy": right, "yes": yes}, right)
        if yes and "yes" not in text.lower():
            row.errors["neither yes nor no"] = 1
        return row

    def summarise(self, rows: Sequence[Row]) -> dict:
        """`f1`, `accuracy`, `precision`, `recall`, `yes_ratio`; each by kind. Chance is saying yes half the time."""
        kinds = sorted({row.group for row in rows})
        neither = sum(row.errors.get("neither yes nor no", 0) for row in rows)
        return {
            **_numbers(rows),
            "neither": neither,
            "chance": {"accuracy": 1 / 2, "f1": 1 / 2, "always_yes_f1": 2 / 3},
            "by_group": {kind: _numbers([row for row in rows if row.group == kind]) for kind in kinds},
        }


def says_yes(answer: str) -> bool:
    """The authors' reading of an answer.

    >>> says_yes("Yes."), says_yes("There is no dog."), says_yes("It is a cat. No dog."), says_yes("A dog, not a cat.")
    (True, False, True, False)
    """
    words = answer.split(".")[0].replace(",", "").split(" ")
    return not {"No", "not", "no"} & set(words)


def _numbers(rows: Sequence[Row]) -> dict:
    said = [(row.numbers["yes"] == 1, row.truth["label"] == "yes") for row in rows]
    both = said.count((True, True))
    yes, true = sum(s for s, _ in said), sum(t for _, t in said)
    return {
        "n": len(rows),
        # 2PR / (P + R) with numerator and denominator multiplied out, so that no part of it is a division by zero.
        "f1": 2 * both / (yes + true) if yes + true else None,
        "accuracy": mean(row.numbers["accuracy"] for row in rows),
        "precision": both / yes if yes else None,
        "recall": both / true if true else None,
        "yes_ratio": mean(row.numbers["yes"] for row in rows),
    }
