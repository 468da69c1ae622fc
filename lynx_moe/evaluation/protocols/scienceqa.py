"""ScienceQA: school questions with options, half of them with a picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lynx_moe.evaluation.protocols.base import PROTOCOLS, Item, Reply, Row, Write
from lynx_moe.evaluation.protocols.files import FileProtocol, Files, setting
from lynx_moe.evaluation.protocols.letters import LETTERS, scienceqa_letter
from lynx_moe.evaluation.protocols.ranking import averages, mean, written_row

CHOOSE = "Answer with the option's letter from the given choices directly."


@PROTOCOLS.register("scienceqa")
@dataclass(kw_only=True)
class ScienceQa(FileProtocol):
    """Accuracy of the chosen letter; of questions with a picture and without one, and by subject.

    The letter is read as LLaVA's evaluation reads it; an answer without one is wrong.
    """

    name = "scienceqa"
    citation = "Lu et al., NeurIPS 2022 (arXiv 2209.09513)"
    headline = "accuracy"
    files = "`problems.json`, `pid_splits.json`, `images/test/1/image.png`"
    oracle = "LLaVA's `eval_science_qa.py`"

    split: str = setting("test", "a split of pid_splits.json: test, val, train, minitest ..")
    pictures_only: bool = setting(False, "ask only the questions with a picture (IMG)")
    prompt: str = setting(
        "{question}\n" + CHOOSE, "{question} is hint, question and lettered options (LLaVA-1.5's words)"
    )

    def _items(self, files: Files) -> Iterator[Item]:
        splits = files.document(files.find("pid_splits.json"))
        chosen = splits.get(self.split) if isinstance(splits, dict) else None
        if not isinstance(chosen, list):
            self.faults[f"no split {self.split} in pid_splits.json"] += 1
            return
        problems = dict(files.keyed_rows(files.find("problems.json")))
        for key in map(str, chosen):
            if key not in problems:
                files.faults["id of the split without a problem"] += 1
            elif problems[key].get("image") or not self.pictures_only:
                item = self._item(files, key, problems[key])
                if item is not None:
                    yield item

    def _item(self, files: Files, key: str, row: dict) -> Item | None:
        taken = files.take(row, question=str, choices=list, answer=int)
        if taken is None:
            return None
        question, choices, answer = taken
        if not 0 <= answer < len(choices) <= len(LETTERS):
            files.faults["row without a usable answer"] += 1
            return None
        name, shown = row.get("image"), None
        if name:
            place = f"{row.get('split') or self.split}/{key}/{name}"
            shown = files.sized_picture(f"images/{place}", place, f"{self.split}/{key}/{name}")
            if shown is None:
                return None
        asked = lettered(str(row.get("hint") or ""), question, map(str, choices))
        record = self._record(
            key, self.prompt.replace("{question}", asked), LETTERS[answer], key if name else "", shown
        )
        truth = {
            "images": [key] if name else [], "letter": LETTERS[answer], "options": len(choices),
            "subject": str(row.get("subject") or "unknown"),
        }  # fmt: skip
        return Item(id=key, asks=(Write(record=record),), truth=truth, group="image" if name else "text")

    def judge(self, item: Item, replies: Sequence[Reply]) -> Row:
        """Right if the letter is that of the true option."""
        letter = scienceqa_letter(replies[0].text)
        right = letter == item.truth["letter"]
        row = written_row(item, replies, {"accuracy": right}, right)
        return with_unread(row, letter)

    def summarise(self, rows: Sequence[Row]) -> dict:
        """`accuracy`, with and without a picture, and by subject; chance is the mean of 1 / options."""
        chance = mean(1 / row.truth["options"] for row in rows)
        return averages(rows, {"accuracy": chance}, subsets={"by_subject": lambda row: [row.truth["subject"]]})


def lettered(hint: str, question: str, options) -> str:
    """Hint, question and options as LLaVA-1.5 was asked them.

    >>> lettered("", "What is it?", ["a cat", "a dog"])
    'What is it?\\nA. a cat\\nB. a dog'
    """
    lines = [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False)]
    return "\n".join([*([hint] if hint else []), question, *lines])


def with_unread(row: Row, letter: str | None) -> Row:
    """The row, with an answer that names no option counted."""
    if letter is None:
        row.errors["no option could be read"] = row.errors.get("no option could be read", 0) + 1
    return row
