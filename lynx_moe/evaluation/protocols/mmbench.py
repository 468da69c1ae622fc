"""MMBench: every question asked once for each order of its options, and right only if all answers are."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lynx_moe.evaluation.protocols.base import PROTOCOLS, Item, Reply, Row, Write
from lynx_moe.evaluation.protocols.files import FileProtocol, Files, plain, setting
from lynx_moe.evaluation.protocols.letters import mmbench_letter
from lynx_moe.evaluation.protocols.ranking import averages, mean, written_row
from lynx_moe.evaluation.protocols.scienceqa import CHOOSE, lettered, with_unread

OPTIONS = "ABCD"
ROUND = 1_000_000  # VLMEvalKit's files hold the rounds as rows of index + round * this
REFERENCE = 64  # a "picture" of at most so many characters is the index of the row that holds it


@PROTOCOLS.register("mmbench")
@dataclass(kw_only=True)
class MmBench(FileProtocol):
    """CircularEval: the options are asked in every rotation, and a question is right if each round is.

    Letters are read by MMBench's own rules; where they fail it asks ChatGPT, and we count the round as wrong: so this
    number is at most the official one. `vanilla` is the accuracy of the first round alone.
    """

    name = "mmbench"
    citation = "Liu et al., ECCV 2024 (arXiv 2307.06281)"
    headline = "accuracy"
    files = "`mmbench_dev_20230712.tsv` or another one of its tables with `answer`, pictures in base64"
    oracle = (
        "VLMEvalKit's MMBench rules, as in lmms-eval `mmbench_evals.py`; rounds as in LLaVA's `model_vqa_mmbench.py`"
    )

    file: str = setting("", "name of the table; empty: the only .tsv there is")
    circular: bool = setting(True, "ask every rotation; False: the first round alone")
    prompt: str = setting(
        "{question}\n" + CHOOSE, "{question} is hint, question and lettered options (LLaVA-1.5's words)"
    )

    def _items(self, files: Files) -> Iterator[Item]:
        tables = sorted(path.name for path in self.folder.glob("*.tsv"))
        path = files.find(self.file or (tables[0] if len(tables) == 1 else "the one .tsv that file= names"))
        pictures: dict[str, bytes] = {}
        for row in files.rows(path):
            item = self._item(files, {name: plain(value) for name, value in row.items()}, pictures)
            if item is not None:
                yield item

    def _item(self, files: Files, row: dict[str, str], pictures: dict[str, bytes]) -> Item | None:
        key, question, answer = (row.get(name, "") for name in ("index", "question", "answer"))
        options = []
        for letter in OPTIONS:
            if not row.get(letter):
                break
            options.append(row[letter])
        if not key.isdecimal() or not question or len(options) < 2:
            files.faults["row without a usable question"] += 1
            return None
        if int(key) >= ROUND:
            return None  # a round that is made here from the first one
        if len(answer) != 1 or answer not in OPTIONS[: len(options)]:
            files.faults["row without a usable answer"] += 1
            return None
        shown = files.held_picture(self._bytes(row.get("image", ""), key, pictures), f"the picture of row {key}")
        if shown is None:
            return None
        rounds = len(options) if self.circular else 1
        asks, letters = [], []
        for turn in range(rounds):
            turned = options[turn:] + options[:turn]
            letters.append(OPTIONS[(OPTIONS.index(answer) - turn) % len(options)])
            asked = self.prompt.replace("{question}", lettered(row.get("hint", ""), question, turned))
            asks.append(Write(record=self._record(f"{key}/{turn}", asked, letters[-1], key, shown)))
        truth = {
            "images": [key], "letters": letters, "options": options,
            "category": row.get("category") or "unknown", "l2": row.get("l2-category") or "unknown",
        }  # fmt: skip
        return Item(id=key, asks=tuple(asks), truth=truth, group=truth["category"])

    def _bytes(self, held: str, key: str, pictures: dict[str, bytes]) -> bytes | None:
        """The picture's bytes; of a row that refers to another, that one's. Only those that are few are kept."""
        if held and len(held) <= REFERENCE:
            return pictures.get(held)
        try:
            data = base64.b64decode(held, validate=True)
        except (binascii.Error, ValueError):
            return None
        pictures[key] = data
        return data

    def judge(self, item: Item, replies: Sequence[Reply]) -> Row:
        """Right if every round's letter is the true option's."""
        options = item.truth["options"]
        rights, read = [], []
        for turn, (reply, letter) in enumerate(zip(replies, item.truth["letters"], strict=True)):
            turned = dict(zip(OPTIONS, options[turn:] + options[:turn], strict=False))
            read.append(mmbench_letter(reply.text, turned))
            rights.append(read[-1] == letter)
        row = written_row(item, replies, {"accuracy": all(rights), "vanilla": rights[0]}, all(rights))
        for letter in read:
            with_unread(row, letter)
        return row

    def summarise(self, rows: Sequence[Row]) -> dict:
        """`accuracy` (circular), `vanilla`; by category and by the level above it."""
        first = mean(1 / len(row.truth["options"]) for row in rows)
        every = mean(len(row.truth["options"]) ** -len(row.truth["letters"]) for row in rows)
        return averages(rows, {"accuracy": every, "vanilla": first}, subsets={"by_l2": lambda row: [row.truth["l2"]]})
