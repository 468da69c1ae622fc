"""Regions, as X-VLM learns them: a phrase's state tells its box, and knows its region's picture tokens from others'.

From X-VLM's code (zengyan-97/X-VLM): the box head Linear(d, 2d), LayerNorm, GELU, Linear(2d, 4) behind a sigmoid, as
centre and size in 0-1, learned with L1 and 1 - GIoU; boxes of the whole picture left out of it; contrast of 256-d
projections in both directions at a learned temperature (0.07 at first, between 0.001 and 0.5); matching with one hard
negative of each side drawn from the contrast's softmax; all weights 1.

Ours, because a decoder is no cross-encoder:

- **The phrase's state** is that of its last token in the question. It has seen the picture and the phrase, and no box
  in text; the answer, which spells the box, comes after it. Where the question shows the box and the answer describes
  it, the state is that of the answer's last token; it has seen the box in text, so it is contrasted and matched only.
- **A region** is the mean of its picture tokens' last states, each weighed by the share of its cell that the box
  covers, so that a box smaller than a cell is one, too. In a causal decoder those states have not seen the question.
- **What is told apart** are the pairs of one micro-batch on one process. A second pair of the same picture whose box
  overlaps by half or more is neither right nor wrong.
- **Matching** reads both projections and their product through a small MLP, where X-VLM has a cross-encoder's state.
- Boxes are in the window of the picture that the model sees (the dialect's geometry).
"""

from __future__ import annotations

import re
import zlib
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lynx_moe.data.targets import TARGET, Target, TargetMaker, Told
from lynx_moe.families.picture_grid import picture_grid
from lynx_moe.grounding import Box
from lynx_moe.objectives.base import OBJECTIVES, Objective, at_items, straight_clamp
from lynx_moe.ops.boxes import corners, coverage, giou, iou
from lynx_moe.ops.contrast import hard_negatives, info_nce

PAIR, WITH_BOX = 1, 2  # a region with its words; one whose box is to be told from them, too
SAME_REGION = 0.5  # IoU from which two boxes of one picture are taken for one region
PLACE = ("x", "y", "w", "h")  # centre and size, in fractions of the window that the model sees
REGION = f"{TARGET}region"
CELL = f"{TARGET}cell"
PICTURE = f"{TARGET}region_picture"


class RegionTargets(TargetMaker):
    """Where a record's region and the end of its words are, and which part of the picture each picture token shows.

    Of grounding records about one picture: those with a phrase that stands in the question, and one box; and those
    whose question shows one box that the answer describes.

    Args:
        cells: say what picture tokens show; raises FamilyError where they lie on no grid.
    """

    objective = "regions"
    looks_for = (
        "a phrase that stands in the question, with one box; or one box in the question that the answer describes"
    )

    def __init__(self, cells: bool):
        self.cells = cells
        self.names = {REGION: torch.int8, PICTURE: torch.int64}
        self.names |= {f"{REGION}_{axis}": torch.float32 for axis in PLACE}
        if cells:
            self.names |= {f"{CELL}_{axis}": torch.float32 for axis in PLACE}

    def of_text(self, told: Told) -> list[Target]:
        record = told.record
        if not record.is_grounding or len(record.sizes) != 1:
            return []
        kind, place, box = WITH_BOX, None, None
        if not record.shows_places and len(record.boxes) == 1:
            place, box = phrase_end(told), record.boxes[0]
        elif len(record.question_boxes) == 1 and not (record.boxes or record.steps or record.question_points):
            kind, box = PAIR, record.question_boxes[0]
            if told.answer and told.answer_at is not None:
                place = told.token_of(told.answer_at + len(told.answer) - 1)
        if place is None:
            return []
        geometry = told.dialect.geometry
        seen = told.dialect.seen(box, record.size)
        if seen.xyxy == geometry.visible(Box(0, 0, *record.size), record.size).xyxy:
            kind = PAIR  # the whole picture: nothing to tell
        left, top, width, height = geometry.window(record.size)
        centred = (
            ((seen.x1 + seen.x2) / 2 - left) / width,
            ((seen.y1 + seen.y2) / 2 - top) / height,
            (seen.x2 - seen.x1) / width,
            (seen.y2 - seen.y1) / height,
        )
        values = {f"{REGION}_{axis}": value for axis, value in zip(PLACE, centred, strict=True)}
        picture = zlib.crc32((record.image_id or record.id).encode())
        return [Target(place, {REGION: kind, PICTURE: picture, **values})]

    def of_picture(self, processor: Any, size: tuple[int, int]) -> dict[str, np.ndarray]:
        if not self.cells:
            return {}
        grid = picture_grid(processor, size)
        spread = np.zeros((4, grid.num_tokens), dtype=np.float32)
        spread[:, grid.places] = grid.cells().T
        return {f"{CELL}_{axis}": values for axis, values in zip(PLACE, spread, strict=True)}


def phrase_end(told: Told) -> int | None:
    """The last token of the record's phrase in the question; None where the question does not hold it, and where a
    picture comes after it, which a causal decoder has not seen there.
    """
    phrase = told.record.phrase
    if not phrase or told.question_at is None:
        return None
    # A word of its own where there is one: "star" is not to be found in "start". Not all scripts part words.
    apart = [found.end() for found in re.finditer(rf"(?<!\w){re.escape(phrase)}(?!\w)", told.question)]
    end = apart[-1] if apart else told.question.rfind(phrase) + len(phrase)
    if end < len(phrase):
        return None
    place = told.token_of(told.question_at + end - 1)
    if place is None or any(place < picture for picture in told.pictures_at):
        return None
    return place if place < told.answer_token else None


@OBJECTIVES.register("regions")
class Regions(Objective):
    """Box regression, region contrast and region matching on the region-text pairs of the records.

    Args:
        width: of the decoder's states.
        weight: of the whole, times each term's.
        l1, giou, contrast, matching: weight of each term; a term of 0 has no head and costs nothing.
        projection: width in which phrases and regions meet.
        temperature: of the contrast at first; learned.
    """

    def __init__(
        self,
        width: int,
        *,
        weight: float = 1.0,
        l1: float = 1.0,
        giou: float = 1.0,
        contrast: float = 1.0,
        matching: float = 1.0,
        projection: int = 256,
        temperature: float = 0.07,
    ):
        super().__init__()
        given = {"l1": l1, "giou": giou, "contrast": contrast, "matching": matching}
        chosen = {name: weight * own for name, own in given.items() if own > 0}
        self.terms = tuple(f"regions_{name}" for name in chosen)
        self.weights = tuple(chosen.values())
        self.tells_boxes = l1 > 0 or giou > 0
        self.tells_apart = contrast > 0 or matching > 0
        if self.tells_boxes:
            self.box = nn.Sequential(
                nn.Linear(width, 2 * width), nn.LayerNorm(2 * width), nn.GELU(), nn.Linear(2 * width, 4)
            )
        if self.tells_apart:
            self.of_text = nn.Linear(width, projection)
            self.of_region = nn.Linear(width, projection)
            # One number in one dimension: what divides weights does not take a scalar.
            self.temperature = nn.Parameter(torch.tensor([temperature]), requires_grad=contrast > 0)
        if matching > 0:
            self.match = nn.Sequential(nn.Linear(3 * projection, projection), nn.GELU(), nn.Linear(projection, 1))

    @classmethod
    def target_maker(cls, settings: dict[str, Any]) -> TargetMaker:
        return RegionTargets(cells=settings["contrast"] > 0 or settings["matching"] > 0)

    def counts(self, batch: dict[str, Tensor]) -> Tensor:
        pairs, boxes = (batch[REGION] >= PAIR).sum(), (batch[REGION] >= WITH_BOX).sum()
        told = {"regions_l1": boxes, "regions_giou": boxes}
        return torch.stack([told.get(name, pairs) for name in self.terms]).float()

    def forward(self, states_BLD: Tensor, batch: dict[str, Tensor]) -> Tensor:
        rows_N, places_N = (batch[REGION] >= PAIR).nonzero(as_tuple=True)
        text_ND = at_items(states_BLD, rows_N, places_N)
        box_N4 = torch.stack([batch[f"{REGION}_{axis}"][rows_N, places_N] for axis in PLACE], dim=-1)
        sums: dict[str, Tensor] = {}
        if self.tells_boxes:
            asked_N = batch[REGION][rows_N, places_N] >= WITH_BOX
            sums |= self._box_terms(text_ND[asked_N], box_N4[asked_N])
        if self.tells_apart:
            region_ND = self._pooled(states_BLD, batch, rows_N, places_N, box_N4)
            sums |= self._pair_terms(text_ND, region_ND, same_region(batch[PICTURE][rows_N, places_N], box_N4))
        return torch.stack([sums[name] for name in self.terms])

    def _box_terms(self, text_ND: Tensor, box_N4: Tensor) -> dict[str, Tensor]:
        told_N4 = self.box(text_ND).sigmoid()
        return {
            "regions_l1": (told_N4 - box_N4).abs().sum(),
            "regions_giou": (1 - giou(corners(told_N4), corners(box_N4))).sum(),
        }

    def _pair_terms(self, text_ND: Tensor, region_ND: Tensor, same_NN: Tensor) -> dict[str, Tensor]:
        text_NP, region_NP = self.of_text(text_ND), self.of_region(region_ND)
        temperature = straight_clamp(self.temperature, 0.001, 0.5)
        logits_NN = F.normalize(text_NP, dim=-1) @ F.normalize(region_NP, dim=-1).T / temperature
        sums = {"regions_contrast": info_nce(logits_NN, same_NN).sum()}
        if "regions_matching" in self.terms:
            sums["regions_matching"] = self._matching(text_NP, region_NP, logits_NN.detach(), same_NN)
        return sums

    def _matching(self, text_NP: Tensor, region_NP: Tensor, logits_NN: Tensor, same_NN: Tensor) -> Tensor:
        """Of each pair with a negative: the mean over it, its words with a wrong region, and its region with wrong
        words.
        """
        # `same_NN` is symmetric, so a pair has a negative on both sides or on none.
        own_M, region_M = hard_negatives(logits_NN, same_NN)
        _, text_M = hard_negatives(logits_NN.T, same_NN)
        trios = [(own_M, own_M), (own_M, region_M), (text_M, own_M)]
        both_TP = torch.cat([torch.cat([text_NP[t], region_NP[r], text_NP[t] * region_NP[r]], -1) for t, r in trios])
        scores_T = self.match(both_TP).squeeze(-1)
        right_T = (torch.arange(len(scores_T), device=scores_T.device) < len(own_M)).float()
        return F.binary_cross_entropy_with_logits(scores_T, right_T, reduction="sum") / len(trios)

    def _pooled(
        self, states_BLD: Tensor, batch: dict[str, Tensor], rows_N: Tensor, places_N: Tensor, box_N4: Tensor
    ) -> Tensor:
        """(N, D) the mean state of the picture tokens inside each box, normalised as the words' are."""
        cell_BL4 = torch.stack([batch[f"{CELL}_{axis}"] for axis in PLACE], dim=-1)
        picture_BL = which_picture(cell_BL4)
        cell_rows_C, cell_places_C = (cell_BL4[..., 2] > 0).nonzero(as_tuple=True)
        weight_NC = coverage(corners(box_N4), corners(cell_BL4[cell_rows_C, cell_places_C]))
        own_NC = rows_N[:, None] == cell_rows_C
        own_NC = own_NC & (picture_BL[rows_N, places_N][:, None] == picture_BL[cell_rows_C, cell_places_C])
        weight_NC = weight_NC * own_NC
        weight_NC = weight_NC / weight_NC.sum(dim=1, keepdim=True).clamp(min=1e-6)
        cells_CD = states_BLD[cell_rows_C, cell_places_C]
        pooled_ND = (weight_NC.to(cells_CD.dtype) @ cells_CD).float()
        return F.layer_norm(pooled_ND, pooled_ND.shape[-1:])


def which_picture(cell_BL4: Tensor) -> Tensor:
    """(B, L) how many pictures' grids have begun in the row, this token included: a phrase's is the last begun.

    A grid begins at its top left cell.
    """
    centre_BL2, size_BL2 = cell_BL4[..., :2], cell_BL4[..., 2:]
    begins_BL = (size_BL2 > 0).all(dim=-1) & (centre_BL2 < size_BL2).all(dim=-1)
    return begins_BL.long().cumsum(dim=1)


def same_region(picture_N: Tensor, box_N4: Tensor) -> Tensor:
    """(N, N) bool: pairs of one picture whose boxes are as good as one; symmetric."""
    box_N4 = corners(box_N4)
    return (picture_N[:, None] == picture_N) & (iou(box_N4[:, None], box_N4) >= SAME_REGION)
