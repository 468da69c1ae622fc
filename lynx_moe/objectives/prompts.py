"""Visual prompts, as Pixel-SAIL shows places: learned vectors added to the picture's embeddings before the first layer.

From the paper (arXiv 2504.10465), as far as it could be read: N learned vectors, one for each prompt of a question; the
prompt's vector is added to the embedding of every picture token that the prompt covers, before the first layer; the
same special tokens name the prompt in the text; there is no encoder for prompts.

Ours:

- **The name is no new token** but words, "region 1", spelled in the tokens that the base has: its vocabulary stays as
  it is. The same vector is added to the embeddings of the tokens that spell the name, so that words and place share a
  mark.
- **Cells**: a box covers those whose centre it holds and the one that it covers most; a point its own; a mask those of
  which it covers half or more, else the most covered. Where prompts overlap, their vectors add up.
- **How large**: a vector counts in units of the embedding that it is added to (the root of its mean square). Families
  differ by orders of magnitude there, and so do text and picture within one.
- **Which form** a region is shown by is drawn for each record from its id, among those that it has: what has a mask can
  also be shown by its box, or by a point, the pixel of the mask nearest to its middle.
- **Where it acts**: in grounding records, in forwards with the adapter on, in rows whose prompt gate is open. All else
  has the base's own input, bit for bit. Understanding records keep their boxes in text, which the base can read.
- There is no loss of its own: the vectors learn from the answer's.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lynx_moe.adapter import open_rows
from lynx_moe.data.records import Corners, Point, Record
from lynx_moe.data.targets import TARGET, Target, TargetMaker, Told
from lynx_moe.errors import DialectError, FamilyError, RecordError
from lynx_moe.families.dialects.base import PLACEHOLDER
from lynx_moe.families.picture_grid import PictureGrid, picture_grid
from lynx_moe.grounding import Box, Mask
from lynx_moe.objectives.base import OBJECTIVES, Objective
from lynx_moe.objectives.prompt_cells import box_cells, mask_cells, point_cells

PROMPTS = f"{TARGET}prompts"  # a bit for each prompt, the first the lowest, that a token is covered by or spells
FORMS = ("box", "point", "mask")


@dataclass(frozen=True, slots=True)
class Shown:
    """One prompt of a question: its number, from 0, and the form that it is shown by with what that form has.

    `box` is what stands in for a mask without a pixel.
    """

    number: int
    form: str
    box: Corners | None = None
    point: Point | None = None
    mask: Mask | None = None


def names_in(question: str) -> Iterator[tuple[str, tuple[str, int] | None, int]]:
    """The pieces of a question: plain text with None; placeholders with (kind, index) and the number of the prompt.

    Prompts are numbered from 0 in the order of their first mention; a place that is named twice is one prompt.
    """
    numbers: dict[tuple[str, int], int] = {}
    end = 0
    for found in PLACEHOLDER.finditer(question):
        yield question[end : found.start()], None, -1
        key = (found[1], int(found[2]))
        yield found[0], key, numbers.setdefault(key, len(numbers))
        end = found.end()
    yield question[end:], None, -1


class PromptTargets(TargetMaker):
    """Which picture tokens each prompt of a question covers, and which tokens spell its name.

    Args:
        count: prompts that there are vectors for. name: of a prompt, "{n}" its number from 1.
        box, point, mask: weight of each form in the draw.
    """

    objective = "prompts"
    looks_for = "a question that shows a box or a point"
    of_input = True

    def __init__(self, *, count: int, name: str, box: float, point: float, mask: float):
        self.names = {PROMPTS: torch.int32}
        self.count, self.name = count, name
        self.weights = {"box": box, "point": point, "mask": mask}
        self._grids: dict[tuple[int, int], PictureGrid] = {}

    def worded(self, record: Record) -> Record:
        """The record with names in its question in place of placeholders.

        Raises:
            RecordError: more prompts than there are vectors.
        """
        if not self._has(record):
            return record
        pieces = list(names_in(record.question))
        if (asked := 1 + max(number for *_, number in pieces)) > self.count:
            raise RecordError(
                f"record {record.id!r} shows {asked} places",
                why=f"there are vectors for {self.count} prompts",
                fix="objective.prompts.count of at least that, in a training from the start; or leave the record out",
            )
        said = (text if key is None else self.name_of(number) for text, key, number in pieces)
        return replace(record, question="".join(said))

    def name_of(self, number: int) -> str:
        return self.name.format(n=number + 1)

    def shown(self, record: Record) -> list[Shown]:
        """What a record's prompts are shown by, the same each time; nothing for one that shows no place.

        Raises:
            DialectError: a placeholder has no box, point or mask.
        """
        if not self._has(record):
            return []
        found: dict[int, Shown] = {}
        for _, key, number in names_in(record.question):
            if key is not None and number not in found:
                found[number] = self._drawn(record, *key, number)
        return list(found.values())

    def of_text(self, told: Told) -> list[Target]:
        prompts = self.shown(told.record)
        if not prompts:
            return []
        if told.question_at is None:
            raise RecordError(
                "its question is not in the text that the chat template makes of it",
                why="the names of prompts are found by where they stand",
                fix="a template that leaves questions as they are, or objective.prompts.weight=0",
            )
        for each in prompts:
            self._refuse_unseen(told, each)
        bits, at = dict.fromkeys(told.pictures_at[:1], 0), told.question_at
        for text, key, number in names_in(told.record.question):
            spelled = text if key is None else self.name_of(number)
            if key is not None:
                for place, (begin, end) in enumerate(told.spans):
                    if begin < at + len(spelled) and at < end:
                        bits[place] = bits.get(place, 0) | 1 << number
            at += len(spelled)
        items = {told.pictures_at[0]: tuple(prompts)}
        return [Target(place, {PROMPTS: value}, items.get(place)) for place, value in bits.items()]

    def of_picture(self, processor: Any, size: tuple[int, int]) -> dict[str, np.ndarray]:
        self._grid(processor, size)  # raises where there is none
        return {}

    def of_shown(self, processor: Any, size: tuple[int, int], item: tuple[Shown, ...]) -> dict[str, np.ndarray]:
        grid = self._grid(processor, size)
        bits = np.zeros(grid.num_tokens, dtype=np.int32)
        for each in item:
            bits[grid.places] |= covered(each, grid).reshape(-1).astype(np.int32) << each.number
        return {PROMPTS: bits}

    def _grid(self, processor: Any, size: tuple[int, int]) -> PictureGrid:
        if size not in self._grids:
            self._grids[size] = picture_grid(processor, size)
        return self._grids[size]

    @staticmethod
    def _has(record: Record) -> bool:
        return record.is_grounding and record.shows_places and bool(record.sizes)

    def _drawn(self, record: Record, kind: str, index: int, number: int) -> Shown:
        places = {"box": record.question_boxes, "point": record.question_points, "mask": record.question_masks}[kind]
        if index >= len(places) or places[index] is None:
            raise DialectError(
                f"{{{kind}:{index}}} in the question of record {record.id!r} has no {kind}",
                why=f"only {len(places)} came with the question, or nobody knows it",
                fix=f"number placeholders from 0 in the order of what they stand for; each is a {kind}",
            )
        if kind == "point":
            return Shown(number, "point", point=places[index])
        box = record.question_boxes[index]
        mask = record.question_masks[index] if index < len(record.question_masks) else None
        form = kind
        if kind == "box" and mask is not None:
            forms = [form for form in FORMS if self.weights[form] > 0] or ["box"]
            weights = [self.weights[form] or 1 for form in forms]
            form = random.Random(f"{record.id}/{number}").choices(forms, weights)[0]
        middle = middle_of(mask.array()) if form == "point" else None
        if form == "point" and middle is None:
            form = "box"
        return Shown(number, form, box=box, point=middle, mask=mask if form == "mask" else None)

    def _refuse_unseen(self, told: Told, shown: Shown) -> None:
        size = told.record.size
        if shown.form == "point":
            told.dialect.seen_point(shown.point, size)
            return
        told.dialect.seen(shown.box, size)
        if shown.mask is not None and shown.mask.size != size:
            raise DialectError(
                f"prompt {shown.number + 1} of record {told.record.id!r} is a mask of {shown.mask.size}",
                why=f"the picture is {size}, and masks count in its pixels",
                fix="make the mask of the picture as it is, not of a resized copy",
            )


def covered(shown: Shown, grid: PictureGrid) -> np.ndarray:
    """(rows, columns) bool: the cells that a prompt covers; at least one."""
    if shown.form == "point":
        return point_cells(shown.point, grid)
    if shown.form == "mask":
        cells = mask_cells(shown.mask.array(), grid)
        if cells.any():
            return cells
    return box_cells(Box(*shown.box), grid)


def middle_of(mask_HW: np.ndarray) -> Point | None:
    """The middle of that pixel of a mask which is nearest to the mean of its pixels; None of an empty one."""
    pixels_P2 = np.argwhere(mask_HW)
    if not len(pixels_P2):
        return None
    row, column = pixels_P2[((pixels_P2 - pixels_P2.mean(axis=0)) ** 2).sum(axis=1).argmin()].tolist()
    return column + 0.5, row + 0.5


@OBJECTIVES.register("prompts")
class Prompts(Objective):
    """Vectors that stand for places, added to the embeddings of the tokens that show and name them.

    Args:
        width: of the decoder's input.
        weight: what is added is the vector times this. With Adam, twice the weight is twice the speed.
        count: how many vectors.
        std: of the normal distribution that they start from; 1 is as large as what they are added to.
        name, box, point, mask: the business of the targets.
    """

    serves = True
    called = ("added",)

    terms = ()
    weights = ()

    def __init__(self, width: int, *, weight: float = 1.0, count: int = 8, std: float = 0.5, **of_targets: Any):
        super().__init__()
        self.weight = weight
        self.vectors = nn.Embedding(count, width)
        nn.init.normal_(self.vectors.weight, std=std)

    @classmethod
    def target_maker(cls, settings: dict[str, Any]) -> PromptTargets:
        return PromptTargets(**{name: settings[name] for name in ("count", "name", *FORMS)})

    def added(self, bits_BL: Tensor) -> Tensor:
        """(B, L, D) the sum of each token's vectors; zeros, with a gradient of zero, where it has no prompt."""
        number_N = torch.arange(self.vectors.num_embeddings, device=bits_BL.device)
        shown_BLN = bits_BL[..., None] >> number_N & 1
        vectors_ND = self.vectors(number_N)
        return shown_BLN.to(vectors_ND.dtype) @ vectors_ND * self.weight

    @contextmanager
    def around(self, decoder: nn.Module, batch: dict[str, Tensor]) -> Iterator[None]:
        """Inside, forwards of `decoder` over the batch's tokens start from embeddings with prompts.

        Raises:
            FamilyError: in such a forward: the decoder is not given an embedding for each token.
        """
        bits_BL = batch[PROMPTS]

        def before(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
            embeds_BLD = kwargs.get("inputs_embeds")
            if embeds_BLD is None or len(embeds_BLD) != len(bits_BL):
                raise FamilyError(
                    f"{type(module).__name__} is not given an embedding for each token of question and picture",
                    why="visual prompts are added there, before the first layer",
                    fix="use this base with objective.prompts.weight=0",
                )
            return args, kwargs | {"inputs_embeds": self._prompted(module, embeds_BLD, bits_BL)}

        hook = decoder.register_forward_pre_hook(before, with_kwargs=True)
        try:
            yield
        finally:
            hook.remove()

    @contextmanager
    def answering(self, decoder: nn.Module, batch: dict[str, Tensor]) -> Iterator[None]:
        with self.around(decoder, batch):
            yield

    def _prompted(self, decoder: nn.Module, embeds_BLD: Tensor, bits_BL: Tensor) -> Tensor:
        length = bits_BL.shape[1]
        if embeds_BLD.shape[1] < length:
            return embeds_BLD  # tokens of an answer that come one by one, behind what was kept of the prompt
        rows = open_rows(decoder)
        open_B = rows.all_open if rows.open_B is None else rows.open_B.to(bits_BL.device)[:, None]
        bits_BL = bits_BL * open_B
        prompt_BLD, rest_BLD = embeds_BLD[:, :length], embeds_BLD[:, length:]
        # Chosen, not only added: a token without a prompt keeps its bits.
        size_BL1 = prompt_BLD.float().square().mean(dim=-1, keepdim=True).sqrt()
        added_BLD = prompt_BLD + (size_BL1 * self.added(bits_BL)).to(prompt_BLD.dtype)
        return torch.cat([torch.where(bits_BL[..., None] > 0, added_BLD, prompt_BLD), rest_BLD], dim=1)

    def counts(self, batch: dict[str, Tensor]) -> Tensor:
        return torch.zeros(0, device=batch[PROMPTS].device)

    def forward(self, states_BLD: Tensor, batch: dict[str, Tensor]) -> Tensor:
        return states_BLD.new_zeros(0, dtype=torch.float32)


def shown_forms(head: Objective | None, records: Sequence[Record]) -> list[tuple[str, ...]]:
    """By which form each prompt of each record's question is shown; nothing without a head, or a place."""
    if head is None:
        return [()] * len(records)
    maker = Prompts.target_maker(head.settings)
    return [tuple(each.form for each in maker.shown(record)) for record in records]
