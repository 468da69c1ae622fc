"""The CLIP that a VLM's vision encoder came from: pooled picture against text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F

from lynx_moe.errors import CheckpointError
from lynx_moe.evaluation.protocols.base import Score
from lynx_moe.evaluation.scoring.base import SCORERS, UNSCORED, Scorer
from lynx_moe.evaluation.scoring.same_encoder import Comparison, compare_towers


@SCORERS.register("clip")
class Clip(Scorer):
    """Cosine of the picture's and the text's pooled, projected vectors (CLIP: CLS and end token; SigLIP: its heads).

    A VLM keeps the vision tower and drops the text tower, so the whole CLIP is named. Its tower must be the VLM's own,
    number for number: only then do CLIP and VLM see the same (arXiv 2411.05195), and differ in what they make of it.

    Each picture and each text is encoded once. Texts longer than the text tower takes are cut and counted in `faults`.

    Args:
        clip: folder or Hub name of a CLIP or SigLIP in transformers' format.
        same_encoder: False scores with any CLIP, and says so.

    Raises:
        CheckpointError: `clip` cannot be loaded, is no CLIP, or has another vision tower than the VLM.
    """

    name = "clip"

    def __init__(self, model, processor, *, clip: str | Path, same_encoder: bool = True, batch_size: int = 16):
        super().__init__(model, processor, batch_size=batch_size)
        self.path = str(clip)
        self.clip, self.clip_processor = _load(self.path)
        self.clip.to(next(model.parameters()).device)
        self.comparison: Comparison = compare_towers(model, self.clip.vision_model)
        if same_encoder and not self.comparison.same:
            raise CheckpointError(
                f"{self.path} has another vision encoder than {type(model).__name__}",
                why=self.comparison.difference,
                fix="name the CLIP that this model was built from, or compare all the same: same_encoder=False",
            )

    @property
    def notes(self) -> dict[str, str]:
        """Which CLIP, and whether its encoder is the model's."""
        found = self.comparison
        told = (
            f"the model's own: {found.tensors} tensors of {found.tower} are equal, sha256 {found.sha256}"
            if found.same
            else f"NOT the model's own: {found.difference}"
        )
        return {**super().notes, "clip": self.path, "score": "cosine of pooled vectors", "encoder": told}

    def _score(self, asks: Sequence[Score]) -> list[float]:
        scores = [UNSCORED] * len(asks)
        text_TD = self._texts(texts := sorted({ask.text for ask in asks}))
        row_of = {text: row for row, text in enumerate(texts)}
        waiting: list[tuple[torch.Tensor, list[int]]] = []
        for image, places in self._pictures(asks):
            pixels = self.clip_processor.image_processor(images=image, return_tensors="pt")["pixel_values"]
            waiting.append((pixels, places))
            if len(waiting) == self.batch_size:
                self._compare(waiting, asks, text_TD, row_of, scores)
                waiting = []
        if waiting:
            self._compare(waiting, asks, text_TD, row_of, scores)
        return scores

    def _compare(
        self, waiting, asks: Sequence[Score], text_TD: torch.Tensor, row_of: dict, scores: list[float]
    ) -> None:
        pixels = torch.cat([each for each, _ in waiting]).to(self.clip.device, self.clip.dtype)
        image_BD = _unit(self.clip.get_image_features(pixel_values=pixels))
        for vector_D, (_, places) in zip(image_BD, waiting, strict=True):
            for place in places:
                scores[place] = float(vector_D @ text_TD[row_of[asks[place].text]])

    def _texts(self, texts: Sequence[str]) -> torch.Tensor:
        """(T, D) unit vectors."""
        tokenizer, most = self.clip_processor.tokenizer, self.clip.config.text_config.max_position_embeddings
        lengths = Counter(len(ids) > most for ids in tokenizer(list(texts))["input_ids"])
        if lengths[True]:
            self.faults["text cut to what the text tower takes"] += lengths[True]
        made = []
        for start in range(0, len(texts), self.batch_size):
            # SigLIP was trained on texts filled up to the full length, and CLIP does not mind.
            inputs = tokenizer(
                texts[start : start + self.batch_size],
                padding="max_length", max_length=most, truncation=True, return_tensors="pt",
            ).to(self.clip.device)  # fmt: skip
            made.append(_unit(self.clip.get_text_features(**inputs)))
        return torch.cat(made)


def _unit(features) -> torch.Tensor:
    return F.normalize(features.pooler_output.float(), dim=-1)


def _load(path: str):
    from transformers import AutoModel, AutoProcessor

    try:
        model = AutoModel.from_pretrained(path, dtype="auto").eval().requires_grad_(False)
        processor = AutoProcessor.from_pretrained(path)
    except (OSError, ValueError) as problem:
        raise CheckpointError(
            f"no CLIP can be loaded from {path}", why=str(problem).splitlines()[0], fix="give its folder: clip=PATH"
        ) from problem
    if not (hasattr(model, "vision_model") and hasattr(model, "get_text_features")):
        raise CheckpointError(
            f"{path} is a {type(model).__name__}", why="it has no text side to compare with",
            fix="give a CLIP or SigLIP with both towers",
        )  # fmt: skip
    return model, processor
