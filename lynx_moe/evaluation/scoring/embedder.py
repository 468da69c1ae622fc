"""The trained model as an encoder: a picture with a question, or a text, as a vector to compare by cosine.

What it reads is what objective `contrast` trained (`lynx_moe.objectives.contrast`): the same rows, made by the same
code, and the same states.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from lynx_moe.data import Collator, SampleBuilder
from lynx_moe.data.beside import alone
from lynx_moe.data.records import Record
from lynx_moe.errors import CheckpointError
from lynx_moe.evaluation.scoring.base import answering, moved, takes
from lynx_moe.families.dialects import Dialect, PercentDialect
from lynx_moe.families.last_states import last_states
from lynx_moe.objectives.contrast import WITH_QUESTION, query_of

Shown = str | Image.Image | tuple[Image.Image, str]  # a text, a picture, or a picture with a question


class Embedder:
    """Embeds: `embedder(image, "what colour is it?") @ embedder("red")` is how well they fit, between -1 and 1.

    Args:
        model: any VLM, plain or with an adapter. processor: its own.
        wording: what is asked to embed a picture; that of training.
        dialect: how the base writes boxes.
        gate: what every forward runs in. New experts were trained with their gate open, also on texts: open it.
        batch_size: rows of a forward.
    """

    def __init__(
        self,
        model,
        processor,
        *,
        wording: str = WITH_QUESTION,
        dialect: Dialect | None = None,
        gate: Callable[[], AbstractContextManager] = nullcontext,
        batch_size: int = 16,
    ):
        self.model, self.wording, self.gate, self.batch_size = model, wording, gate, batch_size
        self.builder = SampleBuilder(processor, dialect or PercentDialect())
        self._collate = Collator(processor)

    @classmethod
    def from_pretrained(
        cls,
        path: str | os.PathLike,
        *,
        base: str | os.PathLike | None = None,
        device: str = "cpu",
        batch_size: int = 16,
    ) -> Embedder:
        """The encoder that a run, or its adapter, was trained to be, with its gate open.

        Args:
            path: folder of a run or of its adapter. base: as `lynx_moe.loading.load` takes it.

        Raises:
            CheckpointError: nothing can be loaded, or it was not trained with objective `contrast`.
        """
        from lynx_moe.loading import load

        loaded = load(path, base=base)
        learned = loaded.objectives.get("contrast")
        if learned is None:
            raise CheckpointError(
                f"{path} was not trained as an encoder",
                why="objective contrast was off, so that its final states were never told apart",
                fix="train with +objective/extra=contrast; to try an untrained model all the same: Embedder(model, "
                "processor)",
            )
        loaded.model.to(device)
        return cls(
            loaded.model,
            loaded.processor,
            wording=learned["wording"],
            dialect=loaded.dialect,
            gate=lambda: loaded.gate("on"),
            batch_size=batch_size,
        )

    def __call__(self, shown: str | Image.Image, question: str = "") -> Tensor:
        """(D,) float32 of length 1: of a text; or of a picture, with a question or without.

        Raises:
            RecordError: the text cannot be put to this model.
        """
        return self.all([shown if isinstance(shown, str) else (shown, question)])[0]

    def all(self, shown: Sequence[Shown]) -> Tensor:
        """(N, D) float32 on the CPU, each of length 1, in the order given.

        Raises:
            RecordError: a text cannot be put to this model.
        """
        samples = [self.sample(each) for each in shown]
        found: list[Tensor | None] = [None] * len(samples)
        # Texts by themselves: some families tell by a missing argument that there is no picture.
        for is_text in (True, False):
            places = [k for k, each in enumerate(shown) if isinstance(each, str) is is_text]
            for start in range(0, len(places), self.batch_size):
                some = places[start : start + self.batch_size]
                for place, vector in zip(some, self._embedded([samples[k] for k in some]), strict=True):
                    found[place] = vector
        return torch.stack(found) if found else torch.empty(0, 0)

    def sample(self, shown: Shown) -> dict[str, Tensor]:
        """What the model is given for a text, a picture, or a picture with a question."""
        if isinstance(shown, str):
            return self.builder.sample(alone(self.builder, shown), ())
        image, question = shown if isinstance(shown, tuple) else (shown, "")
        asked = query_of(
            Record(id="", question=question, answer="", kind="embedding", task="", size=image.size), self.wording
        )
        return self.builder.sample(self.builder.prompts([asked])[0], asked.sizes) | self.builder.pixels(image)

    def _embedded(self, samples: Sequence[dict[str, Tensor]]) -> Tensor:
        batch = self._collate(samples)
        last_B = batch["attention_mask"].sum(1) - 1
        given = {name: value for name, value in batch.items() if name not in ("labels", "is_grounding")}
        if takes(self.model, "logits_to_keep"):
            given["logits_to_keep"] = torch.tensor([0])  # none is looked at
        base = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        with answering(self.model), self.gate(), last_states(base) as states:
            self.model(**moved(self.model, given))
        state_BLD = states.over(batch["input_ids"])
        return F.normalize(state_BLD[torch.arange(len(samples)), last_B].float(), dim=-1).cpu()
