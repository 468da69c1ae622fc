"""MMVP: pairs of pictures that CLIP takes for the same and people do not."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import ClassVar

from lynx_moe.evaluation.protocols.base import PROTOCOLS, Item, Reply, Row, Score, Write
from lynx_moe.evaluation.protocols.files import FileProtocol, Files, plain, setting
from lynx_moe.evaluation.protocols.letters import mmbench_letter
from lynx_moe.evaluation.protocols.ranking import averages, scored_row, scores_of, written_row
from lynx_moe.evaluation.protocols.scienceqa import with_unread

CHANCE = {"pair": 1 / 4, "individual": 1 / 2}
OPTION = re.compile(r"\(([a-z])\)\s*([^()]+)")
# Answers that are wrong in the file, by index (tsb0601/MMVP issue 30, EvolvingLMMs-Lab/lmms-eval issue 1018).
CORRECTED = {99: "b", 100: "a", 279: "b", 280: "a"}


@dataclass(kw_only=True)
class Pairs(FileProtocol):
    """An item is an odd row and the next even one. `pair`: both right; `individual`: one by one.

    A pair without both is left out and counted.
    """

    headline = "pair"

    def _pairs(self, files: Files, rows: Iterator[tuple[int, dict]]) -> Iterator[tuple[int, dict, dict]]:
        """Odd index, its row, and the even one's."""
        waiting: dict[int, dict] = {}
        for number, row in rows:
            if number in waiting:
                files.faults["duplicate id"] += 1
            elif (other := number - 1 if number % 2 == 0 else number + 1) in waiting:
                first, second = (waiting.pop(other), row) if number % 2 == 0 else (row, waiting.pop(other))
                yield min(number, other), first, second
            else:
                waiting[number] = row
        if waiting:
            files.faults["pair without both rows"] += len(waiting)

    def summarise(self, rows: Sequence[Row]) -> dict:
        """`pair` and `individual` accuracy."""
        return averages(rows, CHANCE)


@PROTOCOLS.register("mmvp")
@dataclass(kw_only=True)
class Mmvp(Pairs):
    """Questions with two options, answered in words; a pair is right if both pictures' answers are.

    The authors let GPT-4 say whether an answer means the true option; here the option is read by MMBench's rules (our
    choice: the same every time), and an answer from which none can be read is wrong.
    """

    name = "mmvp"
    citation = "Tong et al., CVPR 2024 (arXiv 2401.06209)"
    files = "`Questions.csv` (`Index, Question, Options, Correct Answer`), `MMVP Images/1.jpg`"
    oracle = "lmms-eval `mmvp/utils.py` (pairs); letters as for MMBench"
    max_new_tokens: ClassVar[int] = 128

    images: str = setting("MMVP Images", "folder of the pictures")
    corrected: bool = setting(False, "use the corrections of four answers that were found wrong")
    prompt: str = setting("{question} {options}", "the question as asked (the authors' words)")

    def _items(self, files: Files) -> Iterator[Item]:
        for number, *rows in self._pairs(files, self._rows(files)):
            asked = [self._ask(files, number + k, row) for k, row in enumerate(rows)]
            if None not in asked:
                yield Item(
                    id=str(number),
                    asks=tuple(ask for ask, _ in asked),
                    truth={"images": [str(number), str(number + 1)], "letters": [t["letter"] for _, t in asked],
                           "options": [t["options"] for _, t in asked]},
                )  # fmt: skip

    def _rows(self, files: Files) -> Iterator[tuple[int, dict]]:
        for row in files.rows(files.find("Questions.csv")):
            index = plain(row.get("Index") or row.get("lndex"))  # the second is how the authors' file spells it
            if index.isdecimal():
                yield int(index), row
            else:
                files.faults["row without a usable Index"] += 1

    def _ask(self, files: Files, number: int, row: dict) -> tuple[Write, dict] | None:
        question, options, answer = (plain(row.get(name)) for name in ("Question", "Options", "Correct Answer"))
        texts = {letter.upper(): text.strip() for letter, text in OPTION.findall(options)}
        letter = (CORRECTED.get(number) if self.corrected else None) or answer.strip("() ").lower()
        if not question or letter.upper() not in texts:
            files.faults["row without a usable question"] += 1
            return None
        shown = files.sized_picture(f"{self.images}/{number}.jpg", f"{self.images.replace(' ', '_')}/{number}.jpg")
        if shown is None:
            return None
        asked = self.prompt.replace("{options}", options).replace("{question}", question)
        record = self._record(str(number), asked, f"({letter})", str(number), shown)
        return Write(record=record), {"letter": letter.upper(), "options": texts}

    def judge(self, item: Item, replies: Sequence[Reply]) -> Row:
        """Both letters."""
        texts = [capitals(reply.text) for reply in replies]
        read = [mmbench_letter(t, options) for t, options in zip(texts, item.truth["options"], strict=True)]
        rights = [letter == true for letter, true in zip(read, item.truth["letters"], strict=True)]
        row = written_row(item, replies, {"pair": all(rights), "individual": sum(rights) / 2}, all(rights))
        for letter in read:
            with_unread(row, letter)
        return row


@PROTOCOLS.register("mmvp_vlm")
@dataclass(kw_only=True)
class MmvpVlm(Pairs):
    """Statements instead of questions: each of two statements must score higher on its own picture, strictly.

    The authors' code takes a tie for the second picture; here it is wrong for both.
    """

    name = "mmvp_vlm"
    citation = "Tong et al., CVPR 2024 (arXiv 2401.06209); questions for encoders as in arXiv 2411.05195"
    files = "`Questions.csv` (`Question ID, Type, Statement`), `MLLM_VLM Images/TYPE/1.jpg`; or MMVP's with statements"
    oracle = "tsb0601/MMVP `scripts/evaluate_vlm.py`"

    questions: str = setting("", "csv with a question per index (`Question`), for scorers that read it; empty: none")
    table: str = setting("Questions.csv", "csv with the statements")
    images: str = setting("MLLM_VLM Images", "folder of the pictures, by type or all together")
    prefix: str = setting("a photo of ", "put before each statement, as the authors do")

    def _items(self, files: Files) -> Iterator[Item]:
        asked = {}
        if self.questions:
            numbers = count(1)
            asked = {next(numbers): plain(row.get("Question")) for row in files.rows(files.find(self.questions))}
        for number, *rows in self._pairs(files, self._rows(files)):
            loads = [self._load(files, number + k, row) for k, row in enumerate(rows)]
            if None in loads:
                continue
            yield Item(
                id=str(number),
                asks=tuple(
                    Score(image_id=str(number + k), load=loads[k], text=self.prefix + row["Statement"],
                          question=asked.get(number, ""))
                    for row in rows for k in (0, 1)
                ),
                truth={"images": [str(number), str(number + 1)]},
                group=plain(rows[0].get("Type")),
            )  # fmt: skip

    def _rows(self, files: Files) -> Iterator[tuple[int, dict]]:
        for row in files.rows(files.find(self.table)):
            index = plain(row.get("Question ID"))
            if index.isdecimal() and plain(row.get("Statement")):
                yield int(index), row
            else:
                files.faults["row without a usable statement"] += 1

    def _load(self, files: Files, number: int, row: dict):
        folders = (self.images, self.images.replace(" ", "_"))
        kind = plain(row.get("Type"))
        return files.picture(*(f"{f}/{at}{number}.jpg" for f in folders for at in (f"{kind}/" if kind else "", "")))

    def judge(self, item: Item, replies: Sequence[Reply]) -> Row:
        """First statement on both pictures, then second."""
        first_own, first_other, second_other, second_own = scores = scores_of(replies)
        rights = [first_own > first_other, second_own > second_other]
        return scored_row(item, scores, {"pair": all(rights), "individual": sum(rights) / 2}, all(rights))


def capitals(text: str) -> str:
    """`text` with its option letters as capitals, for which the rules are written: in brackets, behind "answer", alone.

    >>> capitals("(a) Open"), capitals("b."), capitals("Answer: a"), capitals("a dog")
    ('(A) Open', 'B.', 'Answer: A', 'a dog')
    """
    for pattern in (r"\(([a-e])\)", r"(?i:\banswer(?: is)?:? ?)\(?([a-e])\b(?=\W*$)", r"^\W*([a-e])\W*$"):
        text = re.sub(
            pattern, lambda m: m[0][: m.start(1) - m.start()] + m[1].upper() + m[0][m.end(1) - m.start() :], text
        )
    return text
