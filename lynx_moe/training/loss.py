"""The loss of a training step: cross-entropy on grounding answers, closeness to the base on understanding ones, and
what objectives beside the answer learn from.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from lynx_moe.data.targets import TARGET
from lynx_moe.families.last_states import decoder_of, last_states
from lynx_moe.objectives.answer import answer_nats
from lynx_moe.objectives.attached import heads_of
from lynx_moe.objectives.retention import retention_nats
from lynx_moe.objectives.stepwise import step_weights
from lynx_moe.training.method import watched_penalties

if TYPE_CHECKING:
    from lynx_moe.training.prefix_cache import PrefixCache

# Batch entries that are for the loss, the logs and errors, not for the model; so are objectives' targets.
OURS = ("labels", "is_grounding", "in_box", "in_step", "record_rows", "num_tokens", "left_out")


@dataclass(frozen=True)
class LossParts:
    """What one forward gave.

    Attributes:
        loss: scalar with a gradient.
        outputs: the model's own.
        terms: name to detached scalar, to be logged.
        blocks: per block its gate, experts, penalties and where its router was finite, as `penalty_values` gives them.
    """

    loss: torch.Tensor
    outputs: object
    terms: dict[str, torch.Tensor]
    blocks: dict[str, dict[str, torch.Tensor]]


class AnswerLoss:
    """Mean cross-entropy over grounding answer tokens, plus `retention_kl` times the mean KL(base || adapted) over
    understanding answer tokens, plus the terms of the model's objectives, if it has any.

    The first mean may weigh the tokens of boxes and of steps; the two weights multiply. Both means go over all
    micro-batches of a step and over all devices, so that accumulating gives the gradient of the joint batch. So what a
    record counts for is the sum over its tokens, hence over its steps, in one forward or in several. So do the means of
    objectives, each over its own items.

    Args:
        model: the PEFT model itself; its `disable_adapter()` gives the base.
        retention_kl: weight of the KL; 0 saves the base's forward.
        box_weight: weight of a token that spells a box, where the other tokens of the answer weigh 1.
        step_weights, answer_weight: of the tokens of a stepwise answer, as in `lynx_moe.objectives.stepwise`.
        prefix: the frozen-prefix cache, where one is used: it keeps what the base itself says, too.
        jointly: all processes run the same modules in the same order, whatever their own rows are: where each holds a
            part of every weight, one that skips a forward leaves the others waiting.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        retention_kl: float = 0.0,
        box_weight: float = 1.0,
        step_weights: Sequence[float] = (),
        answer_weight: float = 1.0,
        prefix: PrefixCache | None = None,
        jointly: bool = False,
    ):
        self.model = model
        self.prefix = prefix
        self.jointly = jointly
        self.retention_kl = retention_kl
        self.box_weight = box_weight
        self.step_weights = list(step_weights)
        self.answer_weight = answer_weight
        self.objectives = heads_of(model)
        # Of each term, in the order of `counts`: its name in the log, and its weight in the loss.
        self.terms = {"answer_loss": 1.0, "retention_kl": retention_kl}
        for head in self.objectives.values():
            self.terms |= dict(zip(head.terms, head.weights, strict=True))
        self._keeps_logits = "logits_to_keep" in inspect.signature(model.get_base_model().forward).parameters

    def counts(self, batch: dict) -> torch.Tensor:
        """(K,) over what the means of a micro-batch go: answer tokens [grounding (weighed), understanding], then the
        items of each objective's terms.
        """
        grounding_BL, understanding_BL = answer_kinds(batch)
        tokens = torch.stack([self._weights(batch)[grounding_BL].sum(), understanding_BL.sum().float()])
        return torch.cat([tokens, *(head.counts(batch) for head in self.objectives.values())])

    def __call__(self, model: nn.Module, batch: dict, counts: torch.Tensor, processes: int = 1) -> LossParts:
        """The loss of a micro-batch.

        Args:
            model: what to call: the PEFT model, or what a launcher wrapped it with.
            batch: `labels` (B, L), -100 outside answers; `is_grounding` (B, L), which says of an answer's tokens which
                of the two terms they belong to; with a `box_weight` also `in_box`, with weights of steps `in_step`
                (B, L); and the model's inputs.
            counts: (K,) `counts` summed over all micro-batches of the step and all processes.
            processes: over how many gradients are averaged.
        """
        labels_BL = batch["labels"]
        grounding_BL, understanding_BL = answer_kinds(batch)
        forward = forward_inputs(batch)
        kept_K = (grounding_BL | understanding_BL).any(dim=0).nonzero().squeeze(1)
        if self._keeps_logits:
            # Logits only where some row has an answer: a picture's hundreds of tokens times a large vocabulary is most
            # of the memory otherwise.
            forward["logits_to_keep"] = kept_K

        # `counts` is the same everywhere; this process's own rows are not.
        retain = self.retention_kl > 0 and bool(counts[1] > 0 if self.jointly else understanding_BL.any())
        # Before the adapted forward: PEFT switches requires_grad off and on around it.
        base = self._base_logits(forward, kept_K, understanding_BL) if retain else None
        reading = last_states(self.model.get_base_model()) if self.objectives else nullcontext()
        valid = valid_of(batch)
        with ExitStack() as around:
            states, blocks = around.enter_context(reading), around.enter_context(watched_penalties(self.model, valid))
            for head in self.objectives.values():
                around.enter_context(head.around(decoder_of(self.model.get_base_model()), batch))
            outputs = model(**forward)
        # Data parallel averages over processes. Where there is nothing to count, the sum is 0 too.
        per_token = processes / counts.where(counts > 0, 1)
        targets_T, weight_T = labels_BL[:, 1:][grounding_BL], self._weights(batch)[grounding_BL]
        answer = answer_nats(self._at(outputs.logits, kept_K, grounding_BL), targets_T, weight_T) * per_token[0]
        loss, terms = answer, {"answer_loss": answer.detach()}
        if self.retention_kl > 0:
            terms["retention_kl"] = torch.zeros_like(terms["answer_loss"])
        if retain:
            kept = retention_nats(self._at(outputs.logits, kept_K, understanding_BL), base) * per_token[1]
            loss = loss + self.retention_kl * kept
            terms["retention_kl"] = kept.detach()
        if self.objectives:
            beside, found = self._beside(states.over(batch["input_ids"]), batch, per_token[2:])
            loss, terms = loss + beside, terms | found
        return LossParts(loss=loss, outputs=outputs, terms=terms, blocks=blocks)

    def _beside(
        self, states_BLD: torch.Tensor, batch: dict, per_item: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The objectives' weighed loss, and their terms by name."""
        with torch.autocast(states_BLD.device.type, enabled=False):
            means = torch.cat([head(states_BLD, batch) for head in self.objectives.values()]) * per_item
        named = list(self.terms.items())[2:]
        loss = sum(weight * mean for (_, weight), mean in zip(named, means, strict=True))
        return loss, {name: mean.detach() for (name, _), mean in zip(named, means, strict=True)}

    def _base_logits(self, forward: dict, kept_K: torch.Tensor, understanding_BL: torch.Tensor) -> torch.Tensor:
        """(T, V) what the base itself says where an understanding answer's tokens are predicted."""
        with torch.no_grad(), self.model.disable_adapter():
            rows_B = understanding_BL.any(dim=1)
            if self.jointly:
                rows_B[0] |= not rows_B.any()  # a row for the others' sake; none of its tokens is looked at
            asked = rows_of(forward, rows_B) if one_picture_each(forward, self.model.get_base_model()) else None
            if asked is None:
                asked, rows_B = forward, torch.ones_like(rows_B)
            with self.prefix.base(rows_B, understanding_BL) if self.prefix else nullcontext():
                return self._at(self.model(**asked).logits, kept_K, understanding_BL[rows_B])

    def _weights(self, batch: dict) -> torch.Tensor:
        """(B, L-1) what the prediction of each next token weighs among the grounding answers'."""
        weight_BL = torch.ones_like(batch["labels"][:, 1:], dtype=torch.float32)
        if self.box_weight != 1:
            weight_BL = weight_BL.masked_fill(batch["in_box"][:, 1:], self.box_weight)
        if self.step_weights or self.answer_weight != 1:
            weight_BL = weight_BL * step_weights(batch["in_step"][:, 1:], self.step_weights, self.answer_weight)
        return weight_BL

    def _at(self, logits: torch.Tensor, kept_K: torch.Tensor, kind_BL: torch.Tensor) -> torch.Tensor:
        """Logits (T, V) that predict the tokens marked in `kind_BL`, whether or not the model dropped the others."""
        logits_BKV = logits if self._keeps_logits else logits[:, kept_K]
        return logits_BKV[kind_BL[:, kept_K]]


def forward_inputs(batch: dict) -> dict:
    """What of a batch the model itself takes."""
    return {name: value for name, value in batch.items() if not is_ours(name)}


def is_ours(name: str) -> bool:
    """Whether an entry of a batch is not for the model."""
    return name in OURS or name.startswith(TARGET)


def real_tokens(batch: dict) -> torch.Tensor:
    """How many tokens of a batch are no padding."""
    if "num_tokens" in batch:
        return batch["num_tokens"].sum()
    mask = batch.get("attention_mask")
    return mask.sum() if mask is not None and mask.ndim == 2 else torch.tensor(batch["input_ids"].numel())


def valid_of(batch: dict) -> torch.Tensor | None:
    """(B, L) which tokens are no padding, where the attention mask is of packed rows and does not say so."""
    mask = batch.get("attention_mask")
    if "num_tokens" not in batch or mask is None or mask.ndim == 2:
        return None
    places_L = torch.arange(batch["input_ids"].shape[1], device=batch["num_tokens"].device)
    return places_L < batch["num_tokens"][:, None]


def one_picture_each(forward: dict, base: nn.Module) -> bool:
    """Whether every row has a picture, or none has: else a row with two and a row with none would look like two rows
    with one, and be cut in the wrong place.
    """
    config = base.config
    token = getattr(config, "image_token_id", getattr(config, "image_token_index", None))
    if token is None:
        return False
    shows_B = (forward["input_ids"] == token).any(dim=1)
    return bool(shows_B.all() or not shows_B.any())


def rows_of(forward: dict, rows_B: torch.Tensor) -> dict | None:
    """The model's inputs of some rows alone; None where one is not cut into rows (all pictures' patches, say)."""
    shared = {"logits_to_keep"}
    tensors = {name: value for name, value in forward.items() if name not in shared}
    if any(not isinstance(value, torch.Tensor) or len(value) != len(rows_B) for value in tensors.values()):
        return None
    return {name: value if name in shared else value[rows_B] for name, value in forward.items()}


def answer_kinds(batch: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """Two (B, L-1) masks over positions whose next token is a grounding answer's, and an understanding answer's."""
    next_BL = batch["labels"][:, 1:] != -100
    is_grounding = batch["is_grounding"].bool()
    is_grounding_BL = is_grounding[:, 1:] if is_grounding.dim() == 2 else is_grounding[:, None].expand_as(next_BL)
    return next_BL & is_grounding_BL, next_BL & ~is_grounding_BL
