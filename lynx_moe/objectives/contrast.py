"""Contrast: the model as an encoder, of a picture with a question and of a text, learned in the new experts alone.

From the conversion of a VLM to an encoder in arXiv 2411.05195 (its code follows VLM2Vec): an embedding is the last
token's state of the last layer, L2-normalised, with no head behind it; the query is a picture with "Represent the given
image with the following question: ..", the target a text alone, both through the same network; the loss is InfoNCE from
query to target at temperature 0.02, over the batches of all processes. So there is nothing to save but the experts.

Ours, because it is learned beside answers:

- **Pairs** are the records' own: their question, and their answer where it says something in words. An answer with a
  box, point or mask in it is none, for embeddings are compared across pictures.
- **Query and target are rows of the batch** that is trained anyway (`TargetMaker.rows`), none of whose tokens is
  learned. The query is put through the base's chat template, so that behind a picture that records share it costs its
  own tokens only; the target is the text without a template.
- **Neither right nor wrong** are targets of the same words as the right one ("2", "red"), and targets of the same
  query, as all questions about a picture are where the wording leaves the question out.
- **Negatives** are those of one micro-batch, of all processes. Those of an accumulated step would take a second
  forward of each micro-batch (GradCache), which is not done: give rows more tokens (`data.pack_tokens`) instead.
"""

from __future__ import annotations

import zlib
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lynx_moe.data.records import Record
from lynx_moe.data.targets import TARGET, Beside, Target, TargetMaker, Told
from lynx_moe.families.dialects.base import PLACEHOLDER
from lynx_moe.objectives.base import OBJECTIVES, Objective
from lynx_moe.objectives.gathering import gathered
from lynx_moe.ops.contrast import info_nce_to

WITH_QUESTION = "Represent the given image with the following question: {question}"
WITHOUT_QUESTION = "Represent the given image."  # our own shorter sentence

ASKED, SAID = 1, 2  # the last token of a query, and of a target
SIDE = f"{TARGET}contrast"
QUERY = f"{TARGET}contrast_query"
WORDS = f"{TARGET}contrast_words"


def query_of(record: Record, wording: str = WITH_QUESTION) -> Record:
    """What is asked of the record's pictures to embed them: its question within `wording`, and nothing learned.

    A record without a question is asked `WITHOUT_QUESTION` where the wording has a place for one.
    """
    # Not str.format: a question may hold braces of its own.
    lacks = "{question}" in wording and not record.question
    asked = WITHOUT_QUESTION if lacks else wording.replace("{question}", record.question)
    return replace(record, question=asked, kind="embedding", steps=(), answer="", phrase="", boxes=(), masks=())


def words_of(record: Record) -> str:
    """What a record's answer says in words alone; nothing where it speaks of places.

    >>> words_of(Record(id="a", question="", answer="It is red.", kind="understanding", task=""))
    'It is red.'
    """
    return "" if PLACEHOLDER.search(record.answer) else record.answer.strip()


class ContrastTargets(TargetMaker):
    """Query and target of a record as rows of their own, and by which numbers to know the same query and same words.

    Args:
        wording: of the query.
    """

    objective = "contrast"
    looks_for = "a picture, and an answer in words that speaks of no place"
    adds_rows = True

    def __init__(self, wording: str = WITH_QUESTION):
        self.wording = wording
        self.names = {SIDE: torch.int8, QUERY: torch.int64, WORDS: torch.int64}

    def rows(self, record: Record) -> list[Beside]:
        words = words_of(record)
        if not words or not record.sizes:
            return []
        query = query_of(record, self.wording)
        shown = (record.image_id or record.id, *(each.image_id for each in record.more))
        places = (query.question_boxes, query.question_points)
        known = {QUERY: _number(repr((shown, query.question, places))), WORDS: _number(words.lower().rstrip("."))}
        return [Beside({SIDE: ASKED, **known}, asked=query), Beside({SIDE: SAID, **known}, text=words)]

    def of_text(self, told: Told) -> list[Target]:
        return []

    def of_picture(self, processor: Any, size: tuple[int, int]) -> dict[str, np.ndarray]:
        return {}


def _number(text: str) -> int:
    return zlib.crc32(text.encode())


@OBJECTIVES.register("contrast")
class Contrast(Objective):
    """Tells a query's target among the targets of the micro-batch. It has no parameters.

    Args:
        width: of the decoder's states.
        weight: of the loss.
        temperature: of the contrast, not learned.
        wording: of queries (`ContrastTargets`).
    """

    def __init__(self, width: int, *, weight: float = 1.0, temperature: float = 0.02, wording: str = WITH_QUESTION):
        super().__init__()
        self.terms = ("contrast",)
        self.weights = (weight,)
        self.temperature = temperature

    @classmethod
    def target_maker(cls, settings: dict[str, Any]) -> TargetMaker:
        return ContrastTargets(settings["wording"])

    def counts(self, batch: dict[str, Tensor]) -> Tensor:
        return (batch[SIDE] == ASKED).sum()[None].float()

    def forward(self, states_BLD: Tensor, batch: dict[str, Tensor]) -> Tensor:
        query_ND, asked_N2 = embedded(states_BLD, batch, ASKED)
        words_MD, said_M2 = gathered(*embedded(states_BLD, batch, SAID))
        same_NM2 = asked_N2[:, None] == said_M2[None]
        right_N = same_NM2.all(-1).int().argmax(1) if len(asked_N2) else asked_N2[:, 0]
        logits_NM = query_ND @ words_MD.T / self.temperature
        # Also of no pairs: what others use of this process's targets has to come back through here.
        return (info_nce_to(logits_NM, right_N, same_NM2.any(-1)).sum() + 0 * words_MD.sum())[None]


def embedded(states_BLD: Tensor, batch: dict[str, Tensor], side: int) -> tuple[Tensor, Tensor]:
    """(N, D) float32 embeddings of one side, of length 1; and (N, 2) the numbers of their queries and words."""
    rows_N, places_N = (batch[SIDE] == side).nonzero(as_tuple=True)
    known_N2 = torch.stack([batch[QUERY][rows_N, places_N], batch[WORDS][rows_N, places_N]], dim=-1)
    return F.normalize(states_BLD[rows_N, places_N].float(), dim=-1), known_N2
