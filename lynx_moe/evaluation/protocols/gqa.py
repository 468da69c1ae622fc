"""GQA: compositional questions about scenes, answered in a word."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from lynx_moe.evaluation.protocols.base import PROTOCOLS, Item, Reply, Row, Write
from lynx_moe.evaluation.protocols.files import FileProtocol, Files, setting
from lynx_moe.evaluation.protocols.ranking import averages, written_row
from lynx_moe.evaluation.protocols.vqa import SHORT


@PROTOCOLS.register("gqa")
@dataclass(kw_only=True)
class Gqa(FileProtocol):
    """Exact accuracy over the balanced questions, by structural and semantic type, and of binary and open ones.

    The authors' code compares texts as they are; before that an answer is put in small letters and loses periods at its
    end, as LLaVA-1.5's evaluation does: a chat model writes "Yes." where the answers say "yes".
    """

    name = "gqa"
    citation = "Hudson and Manning, CVPR 2019 (arXiv 1902.09506)"
    headline = "accuracy"
    files = "`testdev_balanced_questions.json`, `images/`"
    oracle = "GQA's `eval.py`"
    max_new_tokens: ClassVar[int] = 32

    split: str = setting("testdev_balanced", "testdev_balanced, val_balanced, testdev_all or val_all")
    prompt: str = setting(
        "{question}" + SHORT, "the question as asked; {question} is the benchmark's (LLaVA-1.5's words)"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self._among("split", ("testdev_balanced", "val_balanced", "testdev_all", "val_all"))

    def _items(self, files: Files) -> Iterator[Item]:
        for key, row in files.keyed_rows(files.find(f"{self.split}_questions.json")):
            taken = files.take(row, question=str, answer=str, imageId=str, types=dict)
            if taken is None or row.get("isBalanced") is False:
                continue  # "all" holds questions that the authors' code does not count either
            question, answer, image, types = taken
            shown = files.sized_picture(f"images/{image}.jpg")
            if shown is not None:
                structural, semantic = (str(types.get(kind) or "unknown") for kind in ("structural", "semantic"))
                record = self._record(key, self.prompt.replace("{question}", question), answer, image, shown)
                truth = {"images": [image], "answer": answer, "structural": structural, "semantic": semantic}
                yield Item(id=key, asks=(Write(record=record),), truth=truth, group=structural)

    def judge(self, item: Item, replies: Sequence[Reply]) -> Row:
        """Right if the words are the answer's."""
        right = replies[0].text.strip().rstrip(".").lower() == item.truth["answer"]
        return written_row(item, replies, {"accuracy": right}, right)

    def summarise(self, rows: Sequence[Row]) -> dict:
        """`accuracy`; by structural type, by semantic type, and of binary and open questions."""
        ways = {
            "by_semantic": lambda row: [row.truth["semantic"]],
            "by_answer": lambda row: ["open" if row.truth["structural"] == "query" else "binary"],
        }
        return averages(rows, {"accuracy": None}, subsets=ways)
