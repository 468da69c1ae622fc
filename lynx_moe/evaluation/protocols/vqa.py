"""VQAv2, TextVQA and VizWiz: short answers held against ten people's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from lynx_moe.evaluation.protocols.base import PROTOCOLS, Item, Reply, Row, Write
from lynx_moe.evaluation.protocols.files import FileProtocol, Files, setting
from lynx_moe.evaluation.protocols.ranking import averages, written_row
from lynx_moe.evaluation.protocols.vqa_answers import evalai_normalise, vqa_accuracy, vqa_normalise

SHORT = "\nAnswer the question using a single word or phrase."
EVALAI = "Pythia / MMF `EvalAIAnswerProcessor`, as in lmms-eval"


@dataclass(kw_only=True)
class Vqa(FileProtocol):
    """VQA accuracy: each person left out in turn, min(1, agreeing others / 3), averaged; `right` from half of that on.

    `right` is ours, for lists of flips; the number is the accuracy.
    """

    headline = "accuracy"
    max_new_tokens: ClassVar[int] = 32
    normalise: ClassVar[Callable[[str], str]] = staticmethod(evalai_normalise)

    prompt: str = setting(
        "{question}" + SHORT, "the question as asked; {question} is the benchmark's (LLaVA-1.5's words)"
    )

    def _ask(self, files: Files, key: str, question: str, truths: list[str], group: str, *names: str) -> Item | None:
        shown = files.sized_picture(*names)
        if shown is None:
            return None
        most = Counter(truths).most_common(1)[0][0]
        record = self._record(key, self.prompt.replace("{question}", question), most, names[0], shown)
        truth = {"images": [names[0]], "answers": truths}
        return Item(id=key, asks=(Write(record=record),), truth=truth, group=group)

    def judge(self, item: Item, replies: Sequence[Reply]) -> Row:
        """The accuracy of one answer."""
        accuracy = self.accuracy(replies[0].text, item.truth["answers"])
        return written_row(item, replies, {"accuracy": accuracy}, accuracy >= 0.5)

    def accuracy(self, answer: str, truths: Sequence[str]) -> float:
        """VQA accuracy, 0 to 1, of an answer as the model wrote it."""
        return vqa_accuracy(self.normalise(answer), list(map(self.normalise, truths)))

    def summarise(self, rows: Sequence[Row]) -> dict:
        """`accuracy`, by kind of answer; guessing has no level."""
        return averages(rows, {"accuracy": None})


@PROTOCOLS.register("vqav2")
@dataclass(kw_only=True)
class VqaV2(Vqa):
    """VQA accuracy with the authors' normaliser, by answer type (yes/no, number, other).

    Both sides are normalised. Versions of the authors' code differ in that: an earlier one takes only punctuation from
    the true answers, and where all ten agree nothing; a later one, known to us from copies, treats both sides alike,
    and where all ten agree compares as written. Which of them the server runs is unverified.
    """

    name = "vqav2"
    citation = "Goyal et al., CVPR 2017; Antol et al., ICCV 2015"
    files = (
        "`v2_OpenEnded_mscoco_val2014_questions.json`, `v2_mscoco_val2014_annotations.json`, "
        "`val2014/COCO_val2014_000000000001.jpg`"
    )
    oracle = "GT-Vision-Lab/VQA `vqaEval.py`"
    normalise = staticmethod(vqa_normalise)

    split: str = setting("val2014", "val2014 or train2014; the test splits have no answers")
    agreed_as_written: bool = setting(False, "where all ten people agree compare as written: 'Yes.' is not 'yes' then")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._among("split", ("val2014", "train2014"))

    def accuracy(self, answer: str, truths: Sequence[str]) -> float:
        """VQA accuracy, 0 to 1."""
        if self.agreed_as_written and len(set(truths)) == 1:
            return vqa_accuracy(_one_line(answer), list(map(_one_line, truths)))
        return super().accuracy(answer, truths)

    def _items(self, files: Files) -> Iterator[Item]:
        # Two million answers: as tuples of texts that repeat, they are kept once.
        known: dict[str, str] = {}
        answers: dict[int, tuple[tuple[str, ...], str]] = {}
        for row in files.rows(files.find(f"v2_mscoco_{self.split}_annotations.json"), "annotations.item"):
            taken = files.take(row, question_id=int, answers=list, answer_type=str)
            if taken is not None and (texts := texts_of(files, taken[1])):
                answers[taken[0]] = (tuple(known.setdefault(t, t) for t in texts), known.setdefault(taken[2], taken[2]))
        path = files.find(f"v2_OpenEnded_mscoco_{self.split}_questions.json")
        for row in files.rows(path, "questions.item"):
            taken = files.take(row, question_id=int, image_id=int, question=str)
            if taken is None:
                continue
            number, image, question = taken
            if number not in answers:
                files.faults["question without answers"] += 1
                continue
            truths, kind = answers[number]
            item = self._ask(
                files, str(number), question, list(truths), kind, f"{self.split}/COCO_{self.split}_{image:012d}.jpg"
            )
            if item is not None:
                yield item


@PROTOCOLS.register("textvqa")
@dataclass(kw_only=True)
class TextVqa(Vqa):
    """VQA accuracy over questions about text in pictures, with the normaliser of its challenge's server."""

    name = "textvqa"
    citation = "Singh et al., CVPR 2019 (arXiv 1904.08920)"
    files = "`TextVQA_0.5.1_val.json`, `train_images/`"
    oracle = EVALAI

    split: str = setting("val", "val or train; the test split has no answers")
    images: str = setting("train_images", "folder of the pictures")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._among("split", ("val", "train"))

    def _items(self, files: Files) -> Iterator[Item]:
        for row in files.rows(files.find(f"TextVQA_0.5.1_{self.split}.json"), "data.item"):
            taken = files.take(row, question_id=int, image_id=str, question=str, answers=list)
            if taken is not None and (truths := texts_of(files, taken[3])):
                number, image, question, _ = taken
                item = self._ask(files, str(number), question, truths, "", f"{self.images}/{image}.jpg")
                if item is not None:
                    yield item


@PROTOCOLS.register("vizwiz")
@dataclass(kw_only=True)
class VizWiz(Vqa):
    """VQA accuracy over blind people's questions, by kind of answer ("unanswerable" is one).

    The server's treatment of the true answers is unverified; here both sides go through the same normaliser.
    """

    name = "vizwiz"
    citation = "Gurari et al., CVPR 2018 (arXiv 1802.08218)"
    files = "`Annotations/val.json` or `val.json`, `val/VizWiz_val_00000000.jpg`"
    oracle = EVALAI

    prompt: str = setting(
        "{question}\nWhen the provided information is insufficient, respond with 'Unanswerable'." + SHORT,
        "the question as asked; {question} is the benchmark's (LLaVA-1.5's words)",
    )
    split: str = setting("val", "val or train; the test split has no answers")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._among("split", ("val", "train"))

    def _items(self, files: Files) -> Iterator[Item]:
        for row in files.rows(files.find(f"Annotations/{self.split}.json", f"{self.split}.json")):
            taken = files.take(row, image=str, question=str, answers=list)
            if taken is not None and (truths := texts_of(files, taken[2])):
                image, question, _ = taken
                kind = str(row.get("answer_type") or "unknown")
                item = self._ask(files, image, question, truths, kind, f"{self.split}/{image}", image)
                if item is not None:
                    yield item


def texts_of(files: Files, answers: list) -> list[str]:
    """People's answers, as texts or as entries with an `answer`; none, and counted, where one is neither."""
    texts = [a.get("answer") if isinstance(a, dict) else a for a in answers]
    if texts and all(isinstance(text, str) for text in texts):
        return texts
    files.faults["row without usable answers"] += 1
    return []


def _one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()
