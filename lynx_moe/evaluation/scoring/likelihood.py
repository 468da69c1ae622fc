"""Likelihood: how probable the text is as the model's own answer about the picture."""

from __future__ import annotations

from collections.abc import Sequence

from lynx_moe.evaluation.protocols.base import Score
from lynx_moe.evaluation.scoring.base import SCORERS
from lynx_moe.evaluation.scoring.forced import Forced, answer_ids
from lynx_moe.evaluation.scoring.worded import WordedScorer

QUESTION = "Describe the image."


@SCORERS.register("likelihood")
class Likelihood(WordedScorer):
    """Mean log-probability per token of the text as the answer to `question`, its end included (our choice of form).

    The tokens are those that training on this answer would learn: a text that the model would go on with is worth less.

    Args:
        question: what the text is to answer.
        protocol_question: ask what the protocol asks instead, where it asks something.
        total: give the sum over tokens, which prefers short texts, instead of the mean.
    """

    name = "likelihood"

    def __init__(
        self, model, processor, *, batch_size: int = 16, question: str = QUESTION,
        protocol_question: bool = False, total: bool = False,
    ):  # fmt: skip
        super().__init__(model, processor, batch_size=batch_size)
        self.question = question
        self.reads_question = protocol_question
        self.total = total

    @property
    def notes(self) -> dict[str, str]:
        """The question, and what the number is."""
        asked = f"the protocol's, else {self.question!r}" if self.reads_question else repr(self.question)
        score = f"{'summed' if self.total else 'mean'} log-probability of the tokens"
        return {**super().notes, "question": asked, "score": score}

    def _rows(self, ask: Score, size: tuple[int, int], pictures: dict) -> list[Forced]:
        question = (ask.question if self.reads_question else "") or self.question
        ids, start = answer_ids(self.builder, self._record(question, ask.text, size))
        return [Forced(ids=ids[:-1], start=start, ends=(int(ids[-1]),), pictures=pictures)]

    def _of(self, rows: Sequence[Forced], found: Sequence[Sequence[float]]) -> float:
        (row,), ((total,),) = rows, found
        return total if self.total else total / (len(row.ids) - row.start + 1)
