"""The frozen-prefix cache: what lies below the lowest wrapped block is computed once per row and kept on disk.

    off       every forward runs the whole model
    vision    the picture's side runs once per picture; the decoder runs whole
    decoder   so do the layers below the lowest trained FFN, once per row; only the rest runs in every epoch

States are float32 where training computes in float32 (losses are then those without a cache), else 16 bits. The first
run of its kind tries on two rows whether the family can be run so (`Boundary.check`), and writes that down.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate import PartialState
from accelerate.utils import reduce, send_to_device

from lynx_moe.data.collate import one_by_one
from lynx_moe.errors import ConfigError
from lynx_moe.families.prefix import Boundary, States
from lynx_moe.training.base import choose_precision
from lynx_moe.training.loss import forward_inputs
from lynx_moe.training.prefix_data import PREFIX, PrefixCollator, PrefixDataset, geometry
from lynx_moe.training.prefix_store import STATES, PrefixStore
from lynx_moe.training.preparing import Prepared
from lynx_moe.training.settings import Settings

FOLDER = "prefix-cache"  # beside the records, so that every run on them finds it
TRIED_ON, LOOKED_AT = 2, 256  # rows to try a family on, found among so many


class PrefixCache:
    """The cache of one run.

    Args:
        prepared: the model with its adapter, and the rows to train on.
        settings: `trainer.prefix_cache` is "vision" or "decoder".

    Attributes:
        dataset, collator: what the trainer is to read; see `PrefixDataset`.

    Raises:
        FamilyError: no part of this model is frozen as a whole. ConfigError: the folder cannot be written, or rows
            come end to end; or an objective adds to the decoder's input.
    """

    def __init__(self, prepared: Prepared, settings: Settings):
        if prepared.collator.end_to_end:
            raise ConfigError(
                f"trainer.prefix_cache={settings.trainer.prefix_cache} with rows laid end to end",
                why="flash attention takes a packed batch as one row, and the cache keeps rows apart",
                fix="trainer.prefix_cache=off, or model.attention=sdpa",
            )
        if adding := [maker.objective for maker in prepared.builder.targets if maker.of_input]:
            raise ConfigError(
                f"trainer.prefix_cache={settings.trainer.prefix_cache} with objective.{adding[0]}",
                why="it adds learned vectors to the decoder's input, and what is kept are states behind it",
                fix=f"trainer.prefix_cache=off, or objective.{adding[0]}.weight=0",
            )
        self.model = prepared.model
        base = prepared.model.get_base_model()
        whole = settings.trainer.prefix_cache == "vision"
        self.boundary = Boundary(base, prepared.model, at_embedding=whole)
        at_embedding = self.boundary.layer == 0
        precision = choose_precision(settings.trainer.precision)
        self.exact = precision == "fp32"
        folder = settings.trainer.cache_dir or Path(settings.data.folder) / FOLDER
        about = {
            "base": prepared.base_hash.digest,
            "pictures": transform_of(prepared.processor),
            "entrance": "embedding" if at_embedding else self.boundary.place,
            "numbers": f"{base.dtype} computed in {precision} on {base.device.type}",
            "attention": str(getattr(base.config.get_text_config(), "_attn_implementation", None)),
            "transformers": transformers.__version__,
        }
        self.store = PrefixStore(Path(folder), about)
        token = prepared.builder.image_token_id if at_embedding else None
        self.dataset = PrefixDataset(
            prepared.dataset, self.store, token, with_answers=settings.objective.retention_kl > 0
        )
        self.collator = PrefixCollator(prepared.collator)
        self._rows, self._collate = prepared.dataset, prepared.collator
        self._keeps_logits = "logits_to_keep" in inspect.signature(base.forward).parameters
        self._type: torch.dtype | None = None  # of the states, with `_width`; known once the family was tried
        self._answers: tuple[torch.Tensor | None, dict[int, str]] | None = None
        self._counts = {"read": 0, "computed": 0, "damaged": 0}

    @contextmanager
    def step(self) -> Iterator[None]:
        """Around forward and backward of a micro-batch: afterwards the model runs whole again."""
        try:
            yield
        finally:
            self.boundary.source = self._answers = None

    @contextmanager
    def base(self, rows_B: torch.Tensor, at_BL: torch.Tensor) -> Iterator[None]:
        """Around the base's own forward: what it says is stored too, and where it is, no decoder layer runs.

        Args:
            rows_B: bool, the rows of the batch that the model is called with.
            at_BL: (B, L-1) bool, the positions of the batch where the base is asked.
        """
        if self._answers is None:
            yield
            return
        stored_TD, lacking = self._answers
        if stored_TD is None:
            with self.boundary.rows(rows_B):
                yield
            last_RLD, place = self.boundary.last_states(), rows_B.cumsum(0) - 1
            for row, key in lacking.items():
                self.store.put(key, {STATES: last_RLD[place[row], :-1][at_BL[row]].to(self._stored)})
            return
        there_BL = torch.cat([at_BL, torch.zeros_like(at_BL[:, :1])], dim=1)
        value_BLD = torch.zeros(*there_BL.shape, self._width, dtype=self._type, device=there_BL.device)
        value_BLD[there_BL] = stored_TD.to(self._type)
        self.boundary.behind = States(value_BLD, there_BL).of_rows(rows_B)
        try:
            yield
        finally:
            self.boundary.behind = None

    def replay(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch as the model and the loss take it, without pictures; the model runs from the boundary on.

        Rows that are not stored are computed first, without gradient, and stored.

        Raises:
            FamilyError: the model cannot be run from the boundary.
        """
        if PREFIX not in batch:
            return batch
        prefix = batch[PREFIX]
        batch = {name: value for name, value in batch.items() if name != PREFIX}
        if self._type is None:
            self._look()
        input_ids = batch["input_ids"]
        value_BLD = torch.zeros(*input_ids.shape, self._width, dtype=self._type, device=input_ids.device)
        there_BL = torch.zeros_like(input_ids, dtype=torch.bool)
        states = prefix["states"].split(prefix["sizes"]) if prefix["hits"] else ()
        for row, states_SD in zip(prefix["hits"], states, strict=True):
            states_SD = states_SD[: input_ids.shape[1]]
            value_BLD[row, : len(states_SD)] = states_SD.to(self._type)
            there_BL[row, : len(states_SD)] = True
        if prefix["missing"]:
            self._compute(batch, prefix, value_BLD, there_BL)
        self._answers = (prefix["answers"], prefix["answer_keys"]) if self.dataset.with_answers else None
        self._counts["read"] += len(prefix["hits"])
        self._counts["computed"] += len(prefix["missing"])
        self._counts["damaged"] += prefix["damaged"]
        self.boundary.source = States(value_BLD, there_BL)
        return batch

    def report(self) -> dict[str, Any]:
        """For the run's card: rows read, computed and found damaged by all processes, and where they lie."""
        together = reduce(torch.tensor(list(self._counts.values()), device=PartialState().device), reduction="sum")
        found = dict(zip(self._counts, together.tolist(), strict=True))
        return {**found, "folder": str(self.store.folder), "stopped_storing": self.store.full, **self.store.about}

    # ---- computing what is missing ----

    def _compute(self, batch: dict, prefix: dict, value_BLD: torch.Tensor, there_BL: torch.Tensor) -> None:
        """Fills in the rows that are missing, and stores them."""
        rows = torch.tensor([row for row, *_ in prefix["missing"]], device=value_BLD.device)
        part = {n: v[rows] for n, v in forward_inputs(batch).items() if n not in prefix["names"]} | prefix["pictures"]
        if self._keeps_logits:
            part["logits_to_keep"] = 1
        # Rounded at once: a row counts the same in the epoch that computes it and in those that read it.
        kept_MLD = self.boundary.capture(part).to(self._stored)
        value_BLD[rows] = kept_MLD.to(value_BLD.dtype)
        on_disk_MLD = kept_MLD.cpu()
        at_embedding = self.dataset.picture_token is not None
        for number, (row, key, span, small) in enumerate(prefix["missing"]):
            # In float32 with its padding, which new experts are given too: the same rows side by side again then give
            # the same sums, to the last bit.
            span = kept_MLD.shape[1] if self.exact and not at_embedding else span
            there_BL[row, :span] = True
            self.store.put(key, {STATES: on_disk_MLD[number, :span], **small})

    @property
    def _stored(self) -> torch.dtype:
        return self._type if self.exact or self._type.itemsize <= 2 else torch.bfloat16

    # ---- whether the family can be run so ----

    def _look(self) -> None:
        """What the states are, and what the layers return: as an earlier run on this folder found, or by trying."""
        known = self.store.noted()
        if known is None:
            states_BLD = self._try()
            known = {"type": str(states_BLD.dtype).removeprefix("torch."), "width": states_BLD.shape[-1]}
            known |= {"forms": self.boundary.forms, "at_ffn": self.boundary.at_ffn}
            self.store.note(known)
        self._type, self._width = getattr(torch, known["type"]), known["width"]
        self.boundary.forms, self.boundary.at_ffn = known["forms"], known["at_ffn"]

    def _try(self) -> torch.Tensor:
        rows = [row for row in range(min(len(self._rows), LOOKED_AT)) if self._rows.pictures(row)]
        samples = one_by_one([self._rows[row] for row in rows[:TRIED_ON] or range(min(len(self._rows), TRIED_ON))])
        batch = send_to_device(self._collate(samples), next(self.model.parameters()).device)
        inputs = forward_inputs(batch)
        small = geometry(inputs)
        over_tokens = {*samples[0]} - {*self._pixel_names(samples)} | {"attention_mask"}
        without = {name: value for name, value in inputs.items() if name in over_tokens or name in small}
        if self._keeps_logits:
            kept = (batch["labels"] != -100).any(dim=0).nonzero().squeeze(1)
            inputs["logits_to_keep"] = without["logits_to_keep"] = kept
        there_BL = torch.zeros_like(batch["input_ids"], dtype=torch.bool)
        for row, sample in enumerate(samples):
            there_BL[row, : self.dataset.span(sample, True) if self.dataset.picture_token is not None else None] = True
        return self.boundary.check(inputs, without, there_BL)

    @staticmethod
    def _pixel_names(samples: list[dict]) -> set[str]:
        return {
            name for sample in samples for name, value in sample.items()
            if value.ndim != 1 or len(value) != len(sample["input_ids"])
        }  # fmt: skip


def transform_of(processor: Any) -> str:
    """sha256 over everything that decides how a picture becomes numbers."""
    made_by = processor.image_processor
    settings = json.dumps(made_by.to_dict(), sort_keys=True, default=str)
    return hashlib.sha256(f"{type(made_by).__name__} {settings}".encode()).hexdigest()
