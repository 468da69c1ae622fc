"""The model as an encoder of pictures and texts: final hidden states, compared by cosine."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from lynx_moe.data import Collator, SampleBuilder
from lynx_moe.data.prompts import messages
from lynx_moe.errors import FamilyError, LynxError, RecordError
from lynx_moe.evaluation.protocols.base import Score
from lynx_moe.evaluation.scoring.base import SCORERS, UNSCORED, Scorer, moved, takes
from lynx_moe.evaluation.scoring.embedder import Embedder
from lynx_moe.families.dialects import PercentDialect
from lynx_moe.objectives.contrast import WITH_QUESTION, WITHOUT_QUESTION


@SCORERS.register("embedding")
class Embedding(Scorer):
    """Cosine of the final hidden states behind the picture with its question, and behind the text alone.

    As in the conversion of a VLM to an encoder of arXiv 2411.05195 (its code follows VLM2Vec): the last token's state
    of the last layer, L2-normalised, no further head, no chat template. The picture's side is the picture, then
    "Represent the given image with the following question: ..."; without a question our own shorter sentence.

    Pictures with a question, and texts, are each encoded once.

    Args:
        wording: what a model that was trained as an encoder (objective `contrast`) was asked; both sides are then what
            they were in training (`Embedder`). The gate is the caller's: open is as in training.

    Raises:
        FamilyError: the model has no output embedding, before which its final states could be read.
    """

    name = "embedding"
    reads_question = True

    def __init__(self, model, processor, *, batch_size: int = 16, wording: str | None = None):
        super().__init__(model, processor, batch_size=batch_size)
        self.trained = None if wording is None else Embedder(model, processor, wording=wording)
        if model.get_output_embeddings() is None:
            raise FamilyError(
                f"{type(model).__name__} has no output embedding",
                why="final states are read where they enter it", fix="use a generating VLM",
            )  # fmt: skip
        self.builder = SampleBuilder(processor, PercentDialect())
        self.mark = picture_mark(self.builder)

    @classmethod
    def learned(cls, objectives: Mapping[str, dict]) -> dict[str, object]:
        """The wording of a model that was trained as an encoder."""
        return {"wording": objectives["contrast"]["wording"]} if "contrast" in objectives else {}

    @property
    def notes(self) -> dict[str, str]:
        """What the number is, and that it may mean little."""
        training = "taken as it is: unless it was trained as an encoder, cosines of this model may say little"
        if self.trained is not None:
            training = f"read as it was trained to be by objective contrast, asked {self.trained.wording!r}"
        return {**super().notes, "score": "cosine of final hidden states", "training": training}

    def _score(self, asks: Sequence[Score]) -> list[float]:
        scores = [UNSCORED] * len(asks)
        seen: dict[tuple, torch.Tensor] = {}
        waiting: list[tuple[tuple, dict]] = []
        sides: list[tuple[int, tuple, tuple]] = []  # place of the ask, keys of both sides
        known: set[tuple] = set()
        for number, (image, places) in enumerate(self._pictures(asks)):
            pictures = self.builder.pixels(image)
            for place in places:
                ask = asks[place]
                keys = ((number, ask.question), (ask.text,))
                try:
                    made = [
                        (key, make())
                        for key, make in zip(keys, self._makers(ask, image, pictures), strict=True)
                        if key not in known
                    ]
                except LynxError:
                    self.faults["text that this model cannot be shown"] += 1
                    continue
                known.update(keys)
                waiting += made
                sides.append((place, *keys))
                while len(waiting) >= self.batch_size:
                    self._encode(waiting[: self.batch_size], seen)
                    del waiting[: self.batch_size]
        self._encode(waiting, seen)
        for place, one, other in sides:
            scores[place] = float(seen[one] @ seen[other])
        return scores

    def _makers(self, ask: Score, image: Image.Image, pictures: dict) -> tuple[Callable[[], dict], ...]:
        if self.trained is not None:
            return (
                lambda: _for_model(self.trained.sample((image, ask.question))),
                lambda: _for_model(self.trained.sample(ask.text)),
            )
        asked = WITH_QUESTION.replace("{question}", ask.question) if ask.question else WITHOUT_QUESTION
        return (
            lambda: self._sample(f"{self.mark} {asked}", [image.size]) | pictures,
            lambda: self._sample(ask.text, []),
        )

    def _sample(self, text: str, sizes: list[tuple[int, int]]) -> dict[str, torch.Tensor]:
        ids = np.asarray(self.builder.tokenizer(text)["input_ids"], dtype=np.int64)
        places = np.flatnonzero(ids == self.builder.image_token_id)
        if not len(ids) or len(places) != len(sizes):
            raise RecordError(
                f"{text!r} is {len(ids)} tokens with {len(places)} pictures, not {len(sizes)}",
                why="a text is not empty and writes no picture token", fix="take the text out",
            )  # fmt: skip
        for place, size in zip(places, sizes, strict=True):
            ids = np.concatenate([ids[:place], self.builder.picture_ids(size), ids[place + 1 :]]).astype(np.int64)
        return {
            "input_ids": torch.from_numpy(ids),
            "attention_mask": torch.ones(len(ids), dtype=torch.long),
            **self.builder.token_types(ids),
        }

    def _encode(self, chosen: Sequence[tuple[tuple, dict]], seen: dict[tuple, torch.Tensor]) -> None:
        # Texts have no picture, which some models tell by the missing argument: they go by themselves.
        for having in (True, False):
            rows = [(key, sample) for key, sample in chosen if (len(key) == 2) is having]
            if rows:
                state_BD = self._last_states([sample for _, sample in rows])
                seen.update(zip([key for key, _ in rows], F.normalize(state_BD.float(), dim=-1).cpu(), strict=True))

    def _last_states(self, samples: Sequence[dict[str, torch.Tensor]]) -> torch.Tensor:
        """(B, D) of each sample's last token."""
        batch = Collator(self.processor, side="right")(samples)
        last_B = batch["attention_mask"].sum(1) - 1
        if takes(self.model, "logits_to_keep"):
            kept, last_B = last_B.unique(return_inverse=True)
            batch["logits_to_keep"] = kept
        with final_states(self.model) as states:
            self.model(**moved(self.model, batch))
        return states[-1][torch.arange(len(samples)), last_B]


def _for_model(sample: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in sample.items() if name not in ("labels", "is_grounding")}


@contextmanager
def final_states(model: torch.nn.Module) -> Iterator[list[torch.Tensor]]:
    """Inside, every forward adds what enters the output embedding, (B, L, D), or of L only the positions that the model
    was told to keep: the last layer's states behind the final norm.

    All layers' states, which transformers would give, are as many times larger as there are layers.
    """
    states: list[torch.Tensor] = []
    hook = model.get_output_embeddings().register_forward_pre_hook(lambda _, args: states.append(args[0]))
    try:
        yield states
    finally:
        hook.remove()


def picture_mark(builder: SampleBuilder) -> str:
    """What stands for a picture in the family's text: its token, with the special tokens that the template puts around.

    Raises:
        FamilyError: the chat template writes none.
    """
    tokenizer = builder.tokenizer
    # What begins and ends every text is no part of a picture.
    others = {builder.image_token, tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token}
    specials = sorted(set(tokenizer.all_special_tokens) - others, key=len, reverse=True)
    around = f"(?:{'|'.join(map(re.escape, specials))})*" if specials else ""
    shown = builder.processor.apply_chat_template(messages("Q", pictures=1), add_generation_prompt=False)
    found = re.search(f"{around}{re.escape(builder.image_token)}{around}", shown)
    if found is None:
        raise FamilyError(
            f"the chat template of {type(builder.processor).__name__} shows no picture",
            why=f"it does not write {builder.image_token!r}", fix="set the template the base was trained with",
        )  # fmt: skip
    return found[0]
