"""VQAScore: how likely the model is to answer yes when asked whether the picture shows the text."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from lynx_moe.errors import ConfigError
from lynx_moe.evaluation.protocols.base import Score
from lynx_moe.evaluation.scoring.base import SCORERS
from lynx_moe.evaluation.scoring.forced import Forced, answer_ids
from lynx_moe.evaluation.scoring.worded import WordedScorer

QUESTION = 'Does this figure show "{text}"? Please answer yes or no.'


@SCORERS.register("vqascore")
class VqaScore(WordedScorer):
    """P("Yes") as the answer to `question` (Lin et al. 2024; the question is that of arXiv 2411.05195's code).

    "Yes" is what the chat template makes of an answer "Yes", with the space and in the case it has there; a tokenizer
    that cuts it, or puts a space in front, makes it several tokens, and their joint probability counts. What the
    template writes behind every answer (the end token) does not count: the official code takes the geometric mean of
    "Yes" and the end, which is near the square root of this, so pairs are ranked nearly alike and 0.5 means another
    thing.

    Args:
        question: what is asked; `{text}` stands for the text.
        against_no: give P("Yes") / (P("Yes") + P("No")), so that answers that are neither do not count (our choice).
        any_case: count "yes" and "YES" as well, and "no" and "NO" (our choice). A base that answers in small letters
            needs it: how unlikely its "Yes" is says nothing about the picture.

    Raises:
        ConfigError: `question` has no place for the text.
    """

    name = "vqascore"
    is_probability = True

    def __init__(
        self, model, processor, *, batch_size: int = 16, question: str = QUESTION,
        against_no: bool = False, any_case: bool = False,
    ):  # fmt: skip
        super().__init__(model, processor, batch_size=batch_size)
        if "{text}" not in question:
            raise ConfigError(
                f"question={question!r} has no {{text}}",
                why="all texts would be asked alike",
                fix=f"such as {QUESTION!r}",
            )
        self.question = question
        self.against_no = against_no
        self.any_case = any_case

    @property
    def notes(self) -> dict[str, str]:
        """The question, and what the number is."""
        value = "P(Yes) / (P(Yes) + P(No))" if self.against_no else "P(Yes)"
        return {**super().notes, "question": self.question, "score": value + (", in any case" if self.any_case else "")}

    def _rows(self, ask: Score, size: tuple[int, int], pictures: dict) -> list[Forced]:
        # Not str.format: a caption may hold braces of its own.
        question = self.question.replace("{text}", ask.text)
        spelled = {word: self._spelled(question, word, size) for word in ("Yes", "No")}
        end = _common_end(*(ids[start:] for ids, start in spelled.values()))
        if self.any_case:
            more = {word: self._spelled(question, word, size) for word in ("yes", "YES", "no", "NO")}
            # A word that the tokenizer does not know could be any.
            unknown = self.builder.tokenizer.unk_token_id
            spelled |= {word: (ids, start) for word, (ids, start) in more.items() if unknown not in ids[start:]}
        # What is shown before an answer's last token -> what may come there. Mostly one prompt for all answers.
        shown: dict[tuple[int, bytes], dict[int, str]] = {}
        for word, (ids, start) in spelled.items():
            if word.lower() == "yes" or self.against_no:
                ids = ids[: len(ids) - end]
                shown.setdefault((start, ids[:-1].tobytes()), {})[int(ids[-1])] = word.lower()
        return [
            Forced(
                ids=np.frombuffer(before, dtype=np.int64).copy(), start=start,
                ends=tuple(ends), names=tuple(ends.values()), pictures=pictures,
            )
            for (start, before), ends in shown.items()
        ]  # fmt: skip

    def _spelled(self, question: str, word: str, size: tuple[int, int]) -> tuple[np.ndarray, int]:
        return answer_ids(self.builder, self._record(question, word, size))

    def _of(self, rows: Sequence[Forced], found: Sequence[Sequence[float]]) -> float:
        logs: dict[str, list[float]] = {"yes": [], "no": []}
        for row, values in zip(rows, found, strict=True):
            for name, value in zip(row.names, values, strict=True):
                logs[name].append(value)
        yes = float(np.logaddexp.reduce(logs["yes"]))
        return float(np.exp(yes - np.logaddexp(yes, np.logaddexp.reduce(logs["no"])))) if logs["no"] else math.exp(yes)


def _common_end(one: np.ndarray, other: np.ndarray) -> int:
    """How many tokens both answers end in: what the template writes behind any answer.

    >>> _common_end(np.array([7, 1, 2]), np.array([8, 1, 2]))
    2
    """
    count = 0
    while count < min(len(one), len(other)) - 1 and one[-1 - count] == other[-1 - count]:
        count += 1
    return count
