"""What a teacher is: a frozen network in a folder of safetensors that gives maps of pictures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lynx_moe.errors import FamilyError
from lynx_moe.registry import Registry


class Teacher(ABC):
    """A frozen network; no `nn.Module` itself, so that nothing of it is saved, moved or trained with what holds it.

    Args:
        folder: of its config and weights. layer: which of its maps, counted as a list is; -1 the last.
        dtype: that it computes in.

    Raises:
        FamilyError: the folder holds no such network whole.
    """

    def __init__(self, folder: Path, *, layer: int = -1, dtype: torch.dtype = torch.float32):
        self.layer = layer
        # What is drawn afterwards is what it would be without a teacher.
        with torch.random.fork_rng(devices=[]):
            self.model = self.load(folder).to(dtype).eval().requires_grad_(False)
        self.dtype = dtype

    @abstractmethod
    def load(self, folder: Path) -> nn.Module:
        """The network, or the part of it that gives the maps."""

    @abstractmethod
    def maps(self, pixels_P3HW: Tensor) -> list[Tensor]:
        """Its maps (P, C, h, w) of pictures in its own normalisation, each over the whole picture."""

    @torch.no_grad()
    def __call__(self, pixels_P3HW: Tensor) -> Tensor:
        """(P, C, h, w) float16, the chosen map; what float16 cannot hold is held at its bounds.

        Raises:
            FamilyError: it has no such layer, or the map is too small to say where anything is.
        """
        self.model.to(pixels_P3HW.device)
        with torch.autocast(pixels_P3HW.device.type, enabled=False):
            maps = self.maps(pixels_P3HW.to(self.dtype))
        if not -len(maps) <= self.layer < len(maps):
            raise FamilyError(
                f"the teacher {type(self.model).__name__} has no layer {self.layer}",
                why=f"it gives {len(maps)} maps, of widths {[made.shape[1] for made in maps]}",
                fix=f"a layer between {-len(maps)} and {len(maps) - 1}",
            )
        chosen = maps[self.layer].float()
        if min(chosen.shape[-2:]) < 2:
            raise FamilyError(
                f"layer {self.layer} of the teacher {type(self.model).__name__} is a map of "
                f"{chosen.shape[-2]} x {chosen.shape[-1]}",
                why="a map without a second cell along a side does not say where anything is",
                fix="an earlier layer, or a larger size of its pictures",
            )
        bound = torch.finfo(torch.float16).max
        return chosen.clamp(-bound, bound).half()


TEACHERS: Registry[type[Teacher]] = Registry("teacher")


def loaded(kind: Any, folder: Path, **options: Any) -> nn.Module:
    """`kind.from_pretrained(folder)` from safetensors alone, with every weight found.

    Raises:
        FamilyError: the folder is of something else, or lacks weights; poolers may be missing, which no map needs.
    """
    try:
        model, found = kind.from_pretrained(
            folder, use_safetensors=True, trust_remote_code=False, output_loading_info=True, **options
        )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as problem:
        raise FamilyError(
            f"{folder} is no {kind.__name__}",
            why=str(problem).splitlines()[0],
            fix="the folder of such a checkpoint in safetensors, or another kind of teacher",
        ) from problem
    missing = sorted(name for name in found["missing_keys"] if "pooler" not in name)
    if missing:
        raise FamilyError(
            f"{folder} lacks {len(missing)} weights of {type(model).__name__}, the first is {missing[0]}",
            why="they would stay as they were drawn, and teach noise",
            fix="the whole checkpoint, or the kind of teacher that it is of",
        )
    return model
