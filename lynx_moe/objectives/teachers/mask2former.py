"""Mask2Former's pixel decoder (arXiv 2112.01527), one of Pixel-SAIL's two teachers."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from lynx_moe.objectives.teachers.base import TEACHERS, Teacher, loaded


@TEACHERS.register("mask2former")
class Mask2FormerTeacher(Teacher):
    """Its pixel decoder's maps, from coarse to fine; the last, of stride 4, are the mask features that its queries are
    multiplied with.
    """

    def load(self, folder: Path) -> nn.Module:
        from transformers import Mask2FormerForUniversalSegmentation

        return loaded(Mask2FormerForUniversalSegmentation, folder).model.pixel_level_module

    def maps(self, pixels_P3HW: Tensor) -> list[Tensor]:
        made = self.model(pixels_P3HW)
        return [*made.decoder_hidden_states, made.decoder_last_hidden_state]
