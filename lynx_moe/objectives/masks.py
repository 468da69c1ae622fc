"""Masks, as Pixel-SAIL makes them: the state of `[SEG]` in the answer times an upsampled map of the picture's states.

From the paper (arXiv 2504.10465), as far as it could be read: masks come from the decoder's own last states, without a
further vision model; the map of picture tokens is upsampled to a quarter of the input (`upsampling.py`); masks are
learned with binary cross-entropy and Dice. Their weights there are not known to us: the defaults 2 and 0.5, with Dice's
eps of 1, are those of Sa2VA's configuration, of the same group. That a mask is the sigmoid of the dot product of the
word's projected state with the map is how we understand it; we have not read it there.

Ours:

- **`[SEG]` is no new token** but a word, spelled in the tokens that the base has, so that embedding and output layer,
  and with them the base, stay byte for byte what they are. Its state is that of the token with its last character. A
  family with a token to spare can name it (`word`).
- **Both sides are normalised** without weights first, and projected: the map by one 1 x 1 convolution, the word's state
  by a small MLP. The dot product is divided by the root of the width.
- **What is learned** for a cell is how much of it the thing covers, of the window that the grid covers; padding is
  background. Cross-entropy is a mean over a mask's cells, so that small pictures count as much as large ones.
- A mask without any cell is legal: cropped away, or empty in the data. The log tells their share, `masks_empty`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lynx_moe.adapter import open_rows
from lynx_moe.adapter.gate_context import Rows
from lynx_moe.data.prompts import mask_places
from lynx_moe.data.targets import TARGET, Target, TargetMaker, Told
from lynx_moe.errors import ConfigError, RecordError
from lynx_moe.families.picture_grid import PictureGrid, picture_grid
from lynx_moe.grounding.mask_cells import to_cells
from lynx_moe.objectives.attached import heads_of
from lynx_moe.objectives.base import OBJECTIVES, Objective, at_items
from lynx_moe.objectives.grids import FINEST_NAMES, NAMES, Grids, grid_targets
from lynx_moe.objectives.upsampling import Upsampling, blocks_for
from lynx_moe.ops.masks import dice_loss, mask_bce, mask_iou

MASK = f"{TARGET}mask"  # 1 at a mask's token where it lies in the record's last picture, 2 in the last but one, ..
CELLS = f"{TARGET}mask_cells"
BLOCKS_ASKED_AT = (512, 512)  # size of the picture whose grid tells the number of blocks


class MaskTargets(TargetMaker):
    """Which tokens end a mask's word, the masks on the fine cells of their pictures, and where picture tokens lie.

    Args:
        blocks: of the upsampling. tiles: cells are those of all tiles, where a picture has such.
    """

    objective = "masks"
    looks_for = "an answer that speaks of a thing by its mask: {mask:0}"

    def __init__(self, blocks: int, tiles: bool = False):
        self.names = {MASK: torch.int8, **(FINEST_NAMES if tiles else NAMES)}
        self.finer, self.tiles = 2**blocks, tiles
        self._grids: dict[tuple[int, int], PictureGrid] = {}

    def of_text(self, told: Told) -> list[Target]:
        places = mask_places(told.record, told.dialect) if told.answer else []
        if not places:
            return []
        if told.answer_at is None:
            raise RecordError(
                "its answer is not in the text that the chat template makes of it",
                why="a mask's word is found by where it stands",
                fix="a template that leaves answers as they are, or no records with masks in their answers",
            )
        sizes, found = told.record.sizes, {}
        for end, mask, picture in places:
            place = told.token_of(told.answer_at + end - 1)
            found[place] = Target(place, {MASK: len(sizes) - picture}, item=(mask, sizes[picture]))
        if None in found or len(found) < len(places):
            raise RecordError(
                "two masks of its answer end in one token, or one in none",
                why="each is read off the state of its own token",
                fix="put a space between the words of masks",
            )
        return list(found.values())

    def of_picture(self, processor: Any, size: tuple[int, int]) -> dict[str, np.ndarray]:
        return grid_targets(processor, size, self.tiles)

    def of_items(self, processor: Any, items: Sequence[Any]) -> dict[str, np.ndarray]:
        made = [self._cells(processor, mask.array(), size) for mask, size in items]
        shape = [max((cells.shape[axis] for cells in made), default=1) for axis in (0, 1)]
        stack = np.zeros((len(made), *shape), dtype=np.float32)
        for filled, cells in zip(stack, made, strict=True):
            filled[: cells.shape[0], : cells.shape[1]] = cells
        return {CELLS: stack}

    def _cells(self, processor: Any, mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        if size not in self._grids:
            self._grids[size] = picture_grid(processor, size, self.tiles)
        grid = self._grids[size]
        return to_cells(mask, grid.window, grid.rows * self.finer, grid.columns * self.finer)


@OBJECTIVES.register("masks")
class Masks(Objective):
    """A mask for each `[SEG]` of an answer, learned with cross-entropy and Dice.

    The log also has `masks_iou`, the mean IoU on the fine cells of masks and what is found at 0.5, and `masks_empty`.

    Args:
        width: of the decoder's states.
        weight: of the whole, times each term's.
        bce, dice: weight of each term.
        channels: width of the fine map, and of the dot product.
        blocks: of the upsampling; each doubles rows and columns.
        tiles: read the tokens of all tiles, where a picture has such, in place of the overview's.
        word: what is written for a mask; the dialect's business.
    """

    serves, called = True, ("drawn", "taught")

    terms = ("masks_bce", "masks_dice", "masks_iou", "masks_empty")

    def __init__(
        self,
        width: int,
        *,
        blocks: int,
        weight: float = 1.0,
        bce: float = 2.0,
        dice: float = 0.5,
        channels: int = 64,
        tiles: bool = False,
        word: str = "[SEG]",
    ):
        super().__init__()
        self.tiles = tiles
        self.weights = (weight * bce, weight * dice, 0.0, 0.0)
        self.channels = channels
        self.upsampling = Upsampling(width, channels, blocks)
        self.query = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, channels))

    @classmethod
    def settled(cls, settings: dict[str, Any], processor: Any) -> dict[str, Any]:
        tokenizer, word = processor.tokenizer, settings["word"]
        if tokenizer.decode(tokenizer(word, add_special_tokens=False)["input_ids"]).strip() != word:
            raise ConfigError(
                f"objective.masks.word={word!r} cannot be spelled by {type(tokenizer).__name__}",
                why="it is written in the tokens that the base has, and read back from them",
                fix="give another word, as '[mask]', or a token to spare of this family",
            )
        if settings["blocks"] is not None:
            return settings
        return settings | {"blocks": blocks_for(picture_grid(processor, BLOCKS_ASKED_AT, settings.get("tiles", False)))}

    @classmethod
    def target_maker(cls, settings: dict[str, Any]) -> TargetMaker:
        return MaskTargets(settings["blocks"], settings.get("tiles", False))

    def counts(self, batch: dict[str, Tensor]) -> Tensor:
        return (batch[MASK] > 0).sum().float().expand(len(self.terms))

    def forward(self, states_BLD: Tensor, batch: dict[str, Tensor]) -> Tensor:
        rows_M, places_M = (batch[MASK] > 0).nonzero(as_tuple=True)
        grids = Grids.of(batch, self.tiles)
        picture_M = grids.picture_BL[rows_M, places_M] - (batch[MASK][rows_M, places_M].long() - 1)
        logits_MHW, inside_MHW = self.logits(at_items(states_BLD, rows_M, places_M), states_BLD, grids, picture_M)
        true_MHW = batch[CELLS]
        rows, columns = true_MHW.shape[1:]  # of no mask at all 1 x 1, and else what the largest picture has
        logits_MHW, inside_MHW = logits_MHW[:, :rows, :columns], inside_MHW[:, :rows, :columns]
        on_MHW, found_MHW = true_MHW >= 0.5, (logits_MHW > 0) & (inside_MHW > 0)
        return torch.stack(
            [
                mask_bce(logits_MHW, true_MHW, inside_MHW).sum(),
                dice_loss(logits_MHW, true_MHW, inside_MHW).sum(),
                mask_iou(on_MHW, found_MHW).sum(),
                (true_MHW.sum((1, 2)) == 0).sum().float(),
            ]
        )

    def logits(self, words_MD: Tensor, states_BLD: Tensor, grids: Grids, picture_M: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of masks on the fine cells (M, H, W), and 1 where their picture has a cell, 0 where it was filled up.

        Args:
            words_MD: normalised states of the masks' words.
            states_BLD, grids: the pictures' states, and where these lie.
            picture_M: which picture each mask is of.
        """
        wanted_P = torch.zeros(len(grids), dtype=torch.bool, device=picture_M.device)
        wanted_P[picture_M] = True
        fine_PCHW, inside_PHW = self.fine_maps(states_BLD, grids, wanted_P)
        query_MC, of_M = self.query(words_MD), (wanted_P.long().cumsum(0) - 1)[picture_M]
        logits_MHW = torch.einsum("mc,mchw->mhw", query_MC, fine_PCHW[of_M]) / query_MC.shape[1] ** 0.5
        return logits_MHW, inside_PHW[of_M]

    def fine_maps(self, states_BLD: Tensor, grids: Grids, wanted_P: Tensor) -> tuple[Tensor, Tensor]:
        """The upsampled maps (P, C, H, W) of the wanted pictures in their order, and 1 where each has a cell (P, H, W).

        All pictures are upsampled in one go, none included: processes that share weights wait for each other.
        """
        number_P = wanted_P.long().cumsum(0) - 1
        sizes = [size for size, wanted in zip(grids.sizes, wanted_P.tolist(), strict=True) if wanted]
        rows, columns = (max((size[axis] for size in sizes), default=1) for axis in (0, 1))
        map_PDHW = torch.zeros(len(sizes), states_BLD.shape[-1], rows, columns, device=states_BLD.device)
        inside_PHW = torch.zeros(len(sizes), rows, columns, device=states_BLD.device)
        for chosen, states_pDHW in grids.maps(states_BLD, wanted_P):
            height, width = states_pDHW.shape[-2:]
            normal_pDHW = F.layer_norm(states_pDHW.float().movedim(1, -1), states_pDHW.shape[1:2]).movedim(-1, 1)
            map_PDHW[number_P[chosen], :, :height, :width] = normal_pDHW
            inside_PHW[number_P[chosen], :height, :width] = 1
        return self.upsampling(map_PDHW, inside_PHW)

    def taught(self, states_BLD: Tensor, grids: Grids, wanted_P: Tensor) -> tuple[Tensor, Tensor]:
        """`fine_maps` for another objective, by a name of its own: what gathers divided weights does not nest."""
        return self.fine_maps(states_BLD, grids, wanted_P)

    @torch.no_grad()
    def drawn(self, words_MD: Tensor, states_BLD: Tensor, grids: Grids, picture_M: Tensor) -> Tensor:
        """(M, H, W) probabilities of the fine cells, while answering; as `logits`."""
        return self.logits(words_MD, states_BLD, grids, picture_M)[0].sigmoid()

    @contextmanager
    def answering(self, decoder: nn.Module, batch: dict[str, Tensor]) -> Iterator[AnswerStates]:
        """Around generation; gives what `AnswerStates.cells` then reads masks off."""
        seen = AnswerStates(self, batch, [], [])

        def keep(module: nn.Module, args: tuple, output: Any) -> None:
            if not seen.states:
                seen.speaking.append(open_rows(module))
            seen.states.append(output[0] if isinstance(output, tuple) else output.last_hidden_state)

        hook = decoder.register_forward_hook(keep)
        try:
            yield seen
        finally:
            hook.remove()


@dataclass(frozen=True, slots=True)
class AnswerStates:
    """The decoder's last states while a batch was answered: of the prompts (B, L, D), then of each new token (B, 1, D).

    They are kept as they are, and cost nothing until a word is found. With them, which prompts the gate was open for.
    """

    head: Masks
    batch: dict[str, Tensor]
    states: list[Tensor]
    speaking: list[Rows]

    def cells(self, words: Sequence[tuple[int, int, int]]) -> list[np.ndarray | None]:
        """(rows, columns) probabilities of the fine cells for each word; None where its last token has no state.

        That is one that the answer was cut off behind: a token's state is made when the next one is asked for. Nor is
        there any where the prompt gate is shut: the base's own words draw nothing.

        Args:
            words: row of the batch, which token of its answer ends the word, and which of the row's pictures it is of,
                counted from the first.
        """
        grids = Grids.of(self.batch, self.head.tiles)
        first = {row: number for number, row in reversed(list(enumerate(grids.row_P.tolist())))}
        known = [w for w in words if w[1] + 1 < len(self.states) and w[0] in first and self._is_open(w[0])]
        if not known:
            return [None] * len(words)
        states_MD = torch.stack([self.states[token + 1][row, -1] for row, token, _ in known]).float()
        picture_M = torch.tensor([first[row] + picture for row, _, picture in known], device=states_MD.device)
        words_MD = F.layer_norm(states_MD, states_MD.shape[-1:])
        found = self.head.drawn(words_MD, self.states[0], grids, picture_M).cpu().numpy()
        sizes = [(grids.sizes[picture], 2 ** len(self.head.upsampling.blocks)) for picture in picture_M.tolist()]
        own = iter(cells[: h * finer, : w * finer] for cells, ((h, w), finer) in zip(found, sizes, strict=True))
        return [next(own) if word in known else None for word in words]

    def _is_open(self, row: int) -> bool:
        (rows,) = self.speaking
        return rows.any_open if rows.open_B is None else bool(rows.open_B[row])


def mask_word_of(model: nn.Module) -> str | None:
    """What a model with a head for masks writes for a mask; None for one without."""
    head = heads_of(model).get("masks")
    return None if head is None else head.settings["word"]
