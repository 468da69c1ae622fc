"""Any vision model of transformers whose states lie on a grid: DINOv2, SigLIP, CLIP, ViT, Swin, ConvNeXt .."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from lynx_moe.errors import FamilyError
from lynx_moe.objectives.teachers.base import TEACHERS, Teacher, loaded


@TEACHERS.register("backbone")
class BackboneTeacher(Teacher):
    """The hidden states of each of its layers or stages; of a model of pictures and texts, of its picture side."""

    def load(self, folder: Path) -> nn.Module:
        from transformers import AutoModel

        model = loaded(AutoModel, folder)
        return getattr(model, "vision_model", model)

    def maps(self, pixels_P3HW: Tensor) -> list[Tensor]:
        try:
            made = self.model(pixels_P3HW, output_hidden_states=True)
        except (RuntimeError, TypeError, ValueError, AttributeError) as problem:
            if isinstance(problem, torch.OutOfMemoryError):
                raise
            raise FamilyError(
                f"the teacher {type(self.model).__name__} does not take pictures of "
                f"{pixels_P3HW.shape[-1]}x{pixels_P3HW.shape[-2]}",
                why=str(problem).splitlines()[0],
                fix="a vision model, and a size that it takes",
            ) from problem
        # Swin and its kin give their stages as maps beside the sequences.
        states = getattr(made, "reshaped_hidden_states", None) or made.hidden_states
        return [self._map(state, pixels_P3HW.shape[-2:]) for state in states]

    def _map(self, state: Tensor, size: tuple[int, int]) -> Tensor:
        if state.ndim == 4:
            return state
        patch = getattr(self.model.config, "patch_size", None)
        patch = patch if isinstance(patch, list | tuple) else (patch, patch)
        rows, columns = (side // step if step else 0 for side, step in zip(size, patch, strict=True))
        before = state.shape[1] - rows * columns  # class and register tokens
        if not rows * columns or not 0 <= before <= 16:
            raise FamilyError(
                f"the teacher {type(self.model).__name__} makes {state.shape[1]} states of a picture of "
                f"{size[1]}x{size[0]}, which are no grid",
                why=f"in patches of {patch[0]} pixels they would be {rows} x {columns}",
                fix="a teacher whose states are one for each patch, or a size of pictures that its patches fill",
            )
        return state[:, before:].transpose(1, 2).unflatten(2, (rows, columns))
