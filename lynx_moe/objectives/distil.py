"""Distillation of a vision teacher's features onto the decoder's own picture tokens, as Pixel-SAIL adds it to masks.

From the paper (arXiv 2504.10465): SAM 2's image encoder and Mask2Former's pixel decoder teach the low-resolution map of
the decoder's last states and the upsampled map that masks are made of. It does not say, as far as it could be read,
which teaches which, by what distance and weight. Ours:

- **The student** is each map behind a linear projection to the teacher's width; the low one of states normalised
  without weights.
- **A common grid** is the student's: the teacher saw the same window of the picture, at its own size, and its map is
  resized to the student's rows and columns (bilinear; smoothed where it gets smaller).
- **The distance**, a mean over cells, is 1 - cosine, or smooth L1 to the teacher's features normalised over channels.
- **The mean** goes over pictures of grounding records. Experts that are gated off learn nothing from others.

Nothing of it is needed to answer. What the teacher says of a picture is computed once and kept on disk.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from lynx_moe.data.targets import TARGET, Target, TargetMaker, Told
from lynx_moe.errors import ConfigError
from lynx_moe.families.dialects.geometry import Geometry
from lynx_moe.objectives.base import OBJECTIVES, Objective
from lynx_moe.objectives.grids import NAMES, Grids, grid_targets
from lynx_moe.objectives.masks import Masks
from lynx_moe.objectives.teachers import TeacherFeatures
from lynx_moe.objectives.teachers.features import content_of
from lynx_moe.objectives.teachers.files import Preparing, teacher_folder

SHOWN = f"{TARGET}distil"  # at a token of a record's answer: how many pictures before it are the record's
LEVELS = ("low", "high")


class DistilTargets(TargetMaker):
    """Which pictures are taught, and each picture as each teacher wants it.

    Args:
        preparing: of the teacher of each level that is taught.
    """

    objective = "distil"
    looks_for = "a picture that a grounding answer is about"
    reads_pictures = True
    names = {SHOWN: torch.int8, **NAMES}

    def __init__(self, preparing: Mapping[str, Preparing]):
        self.preparing = dict(preparing)

    def makes(self, target: Target) -> bool:
        return SHOWN in target.values

    def of_text(self, told: Told) -> list[Target]:
        if not told.record.is_grounding or not told.record.sizes or not told.answer:
            return []
        return [Target(told.answer_token, {SHOWN: len(told.record.sizes)})]

    def of_picture(self, processor: Any, size: tuple[int, int]) -> dict[str, np.ndarray]:
        return grid_targets(processor, size)

    def of_image(self, processor: Any, image: Image.Image) -> dict[str, np.ndarray]:
        window = Geometry.from_processor(processor).window(image.size)
        made = {}
        for level, preparing in self.preparing.items():
            seen = preparing.seen(image, window)
            made[picture_name(level)] = seen[None]
            made[content_name(level)] = np.frombuffer(content_of(seen), dtype=np.uint8)[None].copy()
        return made


def picture_name(level: str) -> str:
    """(pictures, 3, H, W) uint8: as the level's teacher wants them."""
    return f"{SHOWN}_{level}_picture"


def content_name(level: str) -> str:
    """(pictures, 32) uint8: what tells one of those from every other."""
    return f"{SHOWN}_{level}_content"


@OBJECTIVES.register("distil")
class Distil(Objective):
    """A projection for each map that is taught, and the distance of what it tells from what the teacher says.

    Args:
        width: of the decoder's states.
        weight: of the whole, times each level's.
        low, high: weight of the states' own map and of the upsampled one of objective `masks`; one of 0 has no
            projection, and its teacher is not looked at.
        distance: "cosine" or "smooth_l1".
        low_teacher, high_teacher: kind, path, layer, size and dtype of each.
        cache_dir: where features are kept.

    Raises:
        ConfigError, FamilyError: a teacher is not there, or gives no map.
    """

    def __init__(
        self,
        width: int,
        *,
        weight: float = 1.0,
        low: float = 1.0,
        high: float = 0.0,
        distance: str = "cosine",
        low_teacher: Mapping[str, Any],
        high_teacher: Mapping[str, Any],
        cache_dir: str,
    ):
        super().__init__()
        weights, teachers = (low, high), (low_teacher, high_teacher)
        chosen = {level: weight * own for level, own in zip(LEVELS, weights, strict=True) if own > 0}
        self.terms = tuple(f"distil_{level}" for level in chosen)
        self.weights = tuple(chosen.values())
        self.distance = DISTANCES[distance]
        # A dictionary of no modules: the teachers are neither saved nor trained.
        self.taught = {
            level: TeacherFeatures(**teacher, cache_dir=cache_dir)
            for level, teacher in zip(LEVELS, teachers, strict=True)
            if level in chosen
        }
        self.projections = nn.ModuleDict()
        if "low" in chosen:
            self.projections["low"] = nn.Linear(width, self.taught["low"].shape[0])
        self._masks: tuple[Masks, ...] = ()  # a tuple, because a module would be registered here a second time

    @property
    def goes_with(self) -> dict[str, str]:
        return {f"the {level}_teacher": teacher.identity for level, teacher in self.taught.items()}

    @classmethod
    def target_maker(cls, settings: dict[str, Any]) -> TargetMaker:
        teachers = {level: settings[f"{level}_teacher"] for level in LEVELS if settings[level] > 0}
        folders = {level: (teacher_folder(own["path"]), own["size"]) for level, own in teachers.items()}
        return DistilTargets({level: Preparing.from_folder(*given) for level, given in folders.items()})

    @classmethod
    def goes_beside(cls, settings: dict[str, Any], chosen: Mapping[str, dict[str, Any]]) -> None:
        if settings["high"] <= 0:
            return
        if "masks" not in chosen:
            raise ConfigError(
                "objective.distil.high teaches the upsampled map of masks, and objective.masks is off",
                why="the map is made by the head for masks",
                fix="+objective/extra=[masks,distil], or objective.distil.high=0",
            )
        if chosen["masks"].get("tiles"):
            raise ConfigError(
                "objective.distil.high teaches the map of the overview, and objective.masks.tiles reads all tiles",
                why="the teacher sees the window that the overview covers",
                fix="objective.masks.tiles=false, or objective.distil.high=0",
            )

    def meet(self, heads: Mapping[str, Objective]) -> None:
        if "high" not in self.taught:
            return
        self._masks = (heads["masks"],)
        self.projections["high"] = nn.Linear(heads["masks"].channels, self.taught["high"].shape[0])

    def counts(self, batch: dict[str, Tensor]) -> Tensor:
        return shown(batch, Grids.of(batch)).sum().float().expand(len(self.terms))

    def forward(self, states_BLD: Tensor, batch: dict[str, Tensor]) -> Tensor:
        grids = Grids.of(batch)
        asked_P = shown(batch, grids)
        sums = {"distil_low": self._low, "distil_high": self._high}
        return torch.stack([sums[term](states_BLD, batch, grids, asked_P) for term in self.terms])

    def _low(self, states_BLD: Tensor, batch: dict[str, Tensor], grids: Grids, asked_P: Tensor) -> Tensor:
        # All pictures in one go, none included: processes that share weights wait for each other.
        found = [(numbers, maps_NDHW.movedim(1, -1).float()) for numbers, maps_NDHW in grids.maps(states_BLD, asked_P)]
        nothing = states_BLD.new_zeros(0, states_BLD.shape[-1], dtype=torch.float32)
        states_CD = torch.cat([nothing, *(states_NHWD.flatten(0, 2) for _, states_NHWD in found)])
        told_CT = self.projections["low"](F.layer_norm(states_CD, states_CD.shape[-1:]))
        total = told_CT.sum() * 0.0
        sizes = [states_NHWD.shape[:3] for _, states_NHWD in found]
        for (numbers, _), size, told in zip(found, sizes, told_CT.split([s.numel() for s in sizes]), strict=True):
            total = total + self._distance("low", told.unflatten(0, size), numbers.tolist(), batch)
        return total

    def _high(self, states_BLD: Tensor, batch: dict[str, Tensor], grids: Grids, asked_P: Tensor) -> Tensor:
        fine_PCHW, inside_PHW = self._masks[0].taught(states_BLD, grids, asked_P)
        told_PHWC = self.projections["high"](fine_PCHW.movedim(1, -1))
        total = told_PHWC.sum() * 0.0
        for told_HWC, inside_HW, number in zip(told_PHWC, inside_PHW, asked_P.nonzero().squeeze(1), strict=True):
            rows, columns = int(inside_HW[:, 0].sum()), int(inside_HW[0].sum())
            total = total + self._distance("high", told_HWC[None, :rows, :columns], [int(number)], batch)
        return total

    def _distance(self, level: str, told_NHWC: Tensor, numbers: list[int], batch: dict[str, Tensor]) -> Tensor:
        """Summed over pictures, each a mean over its cells."""
        pictures, contents = batch[picture_name(level)], batch[content_name(level)]
        features = [self.taught[level](pictures[number], bytes(contents[number].tolist())) for number in numbers]
        true_NCHW = torch.stack(features).to(told_NHWC.device, torch.float32)
        size = told_NHWC.shape[1:3]
        true_NCHW = F.interpolate(true_NCHW, size=size, mode="bilinear", align_corners=False, antialias=True)
        return self.distance(told_NHWC, true_NCHW.movedim(1, -1)).flatten(1).mean(dim=1).sum()


def shown(batch: dict[str, Tensor], grids: Grids) -> Tensor:
    """(P,) bool: pictures of a record whose answer bears the target: as many before it as it says."""
    rows, places = batch[SHOWN].nonzero(as_tuple=True)
    last = grids.picture_BL[rows, places]
    number_P = torch.arange(len(grids), device=last.device)[:, None]
    return ((number_P <= last) & (number_P > last - batch[SHOWN][rows, places].long())).any(dim=1)


def cosine(told_NHWC: Tensor, true_NHWC: Tensor) -> Tensor:
    """(N, H, W) 1 - cosine of the two over channels."""
    return 1 - F.cosine_similarity(told_NHWC, true_NHWC, dim=-1)


def smooth_l1(told_NHWC: Tensor, true_NHWC: Tensor) -> Tensor:
    """(N, H, W) mean over channels of smooth L1 to the second, normalised over channels."""
    return F.smooth_l1_loss(told_NHWC, F.layer_norm(true_NHWC, true_NHWC.shape[-1:]), reduction="none").mean(-1)


DISTANCES = {"cosine": cosine, "smooth_l1": smooth_l1}
