"""What an objective beside the answer is: it reads the decoder's last states, and trains new experts and its own head.

Everything runs on the ordinary forward of training; nothing is generated and no further forward is made. What is to be
read beside the records themselves are rows of the same batch (`TargetMaker.rows`). An objective is one file here with a
class that `OBJECTIVES.register` files under its name, its settings under the same name in
`lynx_moe.training.objective_settings`, and one YAML in conf/objective/extra.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lynx_moe.data.targets import TargetMaker
from lynx_moe.errors import CheckpointError
from lynx_moe.registry import Registry


class Objective(nn.Module, ABC):
    """A head, and the loss that it learns from together with the experts below it.

    `forward` is called once per micro-batch on every process, also where a batch has nothing for it: each of its
    parameters must then get a gradient of zero, which gradient averaging and divided weights wait for. Parameters have
    at least one dimension, and are float32.

    Attributes:
        terms: names of the terms of its loss, in the order of `counts`, `weights` and what `forward` gives; each
            begins with the objective's name.
        weights: of each term in the loss of a step.
        settings: what it was made with, to be saved with its weights.
        goes_with: sha256 of what was beside it while it learned and is to be there when it goes on, by what that is
            called; nothing for most.
        serves: whether a trained model needs the head to answer: it is then loaded with the adapter, and exported.
        called: further methods that use its weights from outside `forward`; divided weights must know of them.
    """

    serves: ClassVar[bool] = False
    called: ClassVar[tuple[str, ...]] = ()

    terms: tuple[str, ...]
    weights: tuple[float, ...]
    settings: dict[str, Any]

    @property
    def goes_with(self) -> dict[str, str]:
        return {}

    @classmethod
    @abstractmethod
    def target_maker(cls, settings: dict[str, Any]) -> TargetMaker:
        """What makes its targets, for these settings."""

    @classmethod
    def settled(cls, settings: dict[str, Any], processor: Any) -> dict[str, Any]:
        """`settings` with what they leave to the base taken from its processor.

        Raises:
            FamilyError: its picture tokens do not say so. ConfigError: a setting is not for this base.
        """
        return settings

    @classmethod
    def goes_beside(cls, settings: dict[str, Any], chosen: Mapping[str, dict[str, Any]]) -> None:
        """Called with the settings of all objectives of a model before any is made.

        Raises:
            ConfigError: another one is not there that it needs, or not so.
        """

    def meet(self, heads: Mapping[str, Objective]) -> None:
        """Called once when all heads of a model are made, before any is used, for one that reads another's."""

    def goes_on_from(self, settings: Mapping[str, Any]) -> None:
        """Called before weights that were trained with `settings` (as saved) are put into it.

        Raises:
            CheckpointError: they go with something else than what is here.
        """
        here = self.goes_with
        for name, trained in settings.get(GOES_WITH, {}).items():
            if here.get(name, trained) != trained:
                raise CheckpointError(
                    f"{name} has sha256 {here[name][:12]}..",
                    why=f"the head was trained with {trained[:12]}.., and learned in that one's numbers",
                    fix="give back the files that it was trained with",
                )

    def around(self, decoder: nn.Module, batch: dict[str, Tensor]) -> AbstractContextManager:
        """Around the adapted forward of a micro-batch, never around the base's own.

        For a head that adds to the input of `decoder`, the module that runs the text decoder's layers.
        """
        return nullcontext()

    def answering(self, decoder: nn.Module, batch: dict[str, Tensor]) -> AbstractContextManager[Any]:
        """Around the generation of a batch of answers, for a head that serves.

        Args:
            decoder: runs over the prompts once, then over each new token.
            batch: of prompts, padded on the left: `input_ids` (B, L) and the targets that are told of prompts.
        """
        return nullcontext()

    @abstractmethod
    def counts(self, batch: dict[str, Tensor]) -> Tensor:
        """(K,) float: over how many items of a micro-batch each term's mean goes, told from its targets alone."""

    @abstractmethod
    def forward(self, states_BLD: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """(K,) float32: each term summed over those items, with a gradient.

        A sum, because only the caller knows how many items all micro-batches and devices have together.

        Args:
            states_BLD: behind the last norm of the decoder, for every token; picture tokens where the batch has them.
            batch: with `input_ids` (B, L) and the targets: over tokens (B, L); of items (N, ..), in the order of the
                tokens that bear one, row by row; of pictures (P, ..), in the order in which rows show them, which of a
                row's is told by the targets of its picture tokens.
        """


GOES_WITH = "goes_with"  # beside a head's settings where they are saved

OBJECTIVES: Registry[type[Objective]] = Registry("objective")


def straight_clamp(value: Tensor, low: float, high: float) -> Tensor:
    """`value` held between two bounds, with a gradient as if it were not, so that it can come back from outside."""
    return value.detach().clamp(low, high) + (value - value.detach())


def at_items(states_BLD: Tensor, rows_N: Tensor, places_N: Tensor) -> Tensor:
    """(N, D) float32 states of some tokens, normalised without weights.

    Families' last norms leave states of very different size; heads of one initialisation are to start alike on all.
    """
    states_ND = states_BLD[rows_N, places_N].float()
    return torch.nn.functional.layer_norm(states_ND, states_ND.shape[-1:])
