"""SAM 2's image encoder (arXiv 2408.00714), one of Pixel-SAIL's two teachers."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from lynx_moe.objectives.teachers.base import TEACHERS, Teacher, loaded


@TEACHERS.register("sam2")
class Sam2Teacher(Teacher):
    """The levels of its feature pyramid, from high to low resolution; the last, of stride 16, is what masks attend
    to."""

    def load(self, folder: Path) -> nn.Module:
        from transformers import Sam2Model

        return loaded(Sam2Model, folder).vision_encoder

    def maps(self, pixels_P3HW: Tensor) -> list[Tensor]:
        return list(self.model(pixels_P3HW).fpn_hidden_states)
