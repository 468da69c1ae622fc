"""A teacher's folder: where it is, what identifies it, and how it wants its pictures."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lynx_moe.errors import ConfigError, FamilyError
from lynx_moe.objectives.seen import in_window


def teacher_folder(path: str) -> Path:
    """The folder of a teacher given as one, or by its name on the Hub.

    Raises:
        ConfigError: there is no such folder and no such name, or no safetensors in it.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        try:
            folder = Path(snapshot_download(path, allow_patterns=["*.json", "*.safetensors"]))
        except Exception as problem:
            said = str(problem).strip() or type(problem).__name__  # a connection that timed out says nothing
            raise ConfigError(
                f"there is no teacher {path!r}",
                why=f"it is no folder here, and the Hub says: {said.splitlines()[0]}",
                fix="give the folder of a checkpoint in safetensors, or a name on the Hub",
            ) from problem
    if not any(folder.glob("*.safetensors")):
        raise ConfigError(
            f"{folder} holds no teacher",
            why="there are no safetensors in it, and nothing else is read",
            fix="save the checkpoint in safetensors (save_pretrained does)",
        )
    return folder


@dataclass(frozen=True, slots=True)
class Preparing:
    """How a teacher wants its pictures: the size in pixels, and mean and deviation of values in 0-1."""

    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def from_folder(cls, folder: Path, size: int = 0) -> Preparing:
        """As the folder's image processor or timm's config says; a `size` above 0 replaces theirs by a square.

        Raises:
            FamilyError: the folder does not say it.
        """
        timm = _read(folder / "config.json").get("pretrained_cfg")
        said = timm or _read(folder / "preprocessor_config.json")
        said = said or _read(folder / "processor_config.json").get("image_processor", {})
        normalised = said.get("do_normalize", True)
        mean, std = (
            said.get(mine if timm else theirs) for mine, theirs in (("mean", "image_mean"), ("std", "image_std"))
        )
        height, width = (size, size) if size else _sides(said)
        if not height or (normalised and not (mean and std)):
            raise FamilyError(
                f"{folder} does not say how its network wants pictures",
                why="size, mean or deviation is neither in preprocessor_config.json, processor_config.json nor in a "
                "pretrained_cfg of config.json",
                fix="save its image processor beside it",
            )
        if not normalised:
            mean, std = (0.0,) * 3, (1.0,) * 3
        return cls(height, width, tuple(mean), tuple(std))

    def seen(self, image: Image.Image, window: tuple[float, float, float, float]) -> np.ndarray:
        """(3, H, W) uint8: a window (left, top, width, height) of a picture at the teacher's size, squeezed where the
        sides are not in its proportion; where the window is larger than the picture, in the teacher's mean colour.
        """
        return in_window(image, window, (self.width, self.height), tuple(round(255 * m) for m in self.mean))

    def normalised(self, pictures_P3HW: Tensor) -> Tensor:
        """(P, 3, H, W) float32 as the teacher takes them, of uint8 ones."""
        mean, std = (
            torch.tensor(values, device=pictures_P3HW.device).view(-1, 1, 1) for values in (self.mean, self.std)
        )
        return (pictures_P3HW.float() / 255 - mean) / std


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _sides(said: dict[str, Any]) -> tuple[int, int]:
    """Height and width that an image processor's or timm's settings ask for; zeros where they do not say."""
    if "input_size" in said:
        return tuple(said["input_size"][-2:])
    # A crop of the middle is left out: the teacher is to see all that the base sees.
    size = (said.get("crop_size") if said.get("do_center_crop") else None) or said.get("size") or {}
    if isinstance(size, int):
        return size, size
    side = size.get("shortest_edge") or size.get("longest_edge") or 0
    return size.get("height", side), size.get("width", side)
