"""Scorers that put the question to the model as a chat: pictures prepared once, asks worded one by one."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from PIL import Image

from lynx_moe.data import Record, SampleBuilder
from lynx_moe.errors import FamilyError, LynxError
from lynx_moe.evaluation.protocols.base import Score
from lynx_moe.evaluation.scoring.base import UNSCORED, Scorer
from lynx_moe.evaluation.scoring.forced import Forced, log_probabilities
from lynx_moe.families.dialects import PercentDialect


class WordedScorer(Scorer):
    """A scorer that reads log-probabilities behind the model's own chat template.

    Raises:
        FamilyError: the processor has no chat template or picture token; or the model is an encoder and a decoder,
            whose prompt and answer are not one text.
    """

    def __init__(self, model, processor, *, batch_size: int = 16):
        super().__init__(model, processor, batch_size=batch_size)
        if getattr(model.config, "is_encoder_decoder", False):
            raise FamilyError(
                f"{type(model).__name__} is an encoder and a decoder",
                why="answers are scored as the rest of the prompt's own text",
                fix="use a decoder-only base",
            )
        # No boxes are written here, so any dialect words the prompts alike.
        self.builder = SampleBuilder(processor, PercentDialect())

    @abstractmethod
    def _rows(self, ask: Score, size: tuple[int, int], pictures: dict) -> list[Forced]:
        """What the model is shown for one ask.

        Raises:
            LynxError: the text cannot be put to this model.
        """

    @abstractmethod
    def _of(self, rows: Sequence[Forced], found: Sequence[Sequence[float]]) -> float:
        """The score, from the log-probabilities of each row's ends."""

    def _score(self, asks: Sequence[Score]) -> list[float]:
        scores = [UNSCORED] * len(asks)
        waiting: list[tuple[int, list[Forced]]] = []
        for image, places in self._pictures(asks):
            pictures = self.builder.pixels(image)
            for place in places:
                try:
                    waiting.append((place, self._rows(asks[place], image.size, pictures)))
                except LynxError:
                    self.faults["text that this model cannot be shown"] += 1
                if sum(len(rows) for _, rows in waiting) >= self.batch_size:
                    self._answer(waiting, scores)
                    waiting = []
        self._answer(waiting, scores)
        return scores

    def _answer(self, waiting: list[tuple[int, list[Forced]]], scores: list[float]) -> None:
        rows = [row for _, of_ask in waiting for row in of_ask]
        found: list[list[float]] = []
        for start in range(0, len(rows), self.batch_size):
            found += log_probabilities(self.model, self.builder, rows[start : start + self.batch_size])
        for place, of_ask in waiting:
            scores[place] = self._of(of_ask, found[: len(of_ask)])
            del found[: len(of_ask)]

    def _record(self, question: str, answer: str, size: tuple[int, int]) -> Record:
        return Record(
            id="ask", question=question, answer=answer, kind="understanding", task="score", size=size, load=_none
        )


def _none() -> Image.Image:
    raise AssertionError("the picture was prepared before")
