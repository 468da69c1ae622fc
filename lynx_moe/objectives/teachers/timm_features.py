"""Any network of timm that gives features of its stages."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from lynx_moe.errors import ConfigError, FamilyError
from lynx_moe.objectives.teachers.base import TEACHERS, Teacher


@TEACHERS.register("timm")
class TimmTeacher(Teacher):
    """The features of each of its stages (timm's `features_only`), from high to low resolution.

    Raises:
        ConfigError: timm is not installed. FamilyError: the folder is none that timm wrote, or gives no features.
    """

    def load(self, folder: Path) -> nn.Module:
        try:
            import timm
        except (ImportError, RuntimeError) as problem:
            raise ConfigError(
                "a teacher of timm needs timm",
                why=str(problem).splitlines()[0],
                fix="pip install lynx-moe[timm], or a teacher of another kind",
            ) from problem
        try:
            # Strictly: for features alone timm passes over weights that the file lacks.
            timm.create_model(f"local-dir:{folder}", pretrained=True)
            return timm.create_model(f"local-dir:{folder}", pretrained=True, features_only=True)
        except Exception as problem:
            raise FamilyError(
                f"{folder} gives no features by timm",
                why=" ".join(str(problem).split()),
                fix="a folder as timm saves it for the Hub: config.json with architecture, model.safetensors",
            ) from problem

    def maps(self, pixels_P3HW: Tensor) -> list[Tensor]:
        return list(self.model(pixels_P3HW))
