"""What a scorer is: a model, and a number for each picture and text, the same whatever else is asked."""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import ClassVar

import torch
from PIL import Image

from lynx_moe.errors import ConfigError, LynxError, nearest
from lynx_moe.evaluation.protocols.base import Score
from lynx_moe.registry import Registry


class Scorer(ABC):
    """Scores in the order of the asks, higher fits better.

    The same ask gets the same score in any company, up to rounding: in float32 within 1e-5, in 16 bits up to half a
    per cent was seen. Strict comparisons of near ties are therefore best made in float32.

    Args:
        model: any `AutoModelForImageTextToText`, plain or with an adapter, on its device; put into eval mode while it
            scores, and back.
        processor: the base's.
        batch_size: sequences per forward.

    Attributes:
        name: the registered name.
        is_probability: whether a score is a probability, so that a threshold such as 0.5 means something.
        reads_question: whether `Score.question` changes the score.
        faults: what could not be scored, by kind; its score is NaN.
    """

    name: ClassVar[str]
    is_probability: ClassVar[bool] = False
    reads_question: bool = False

    def __init__(self, model, processor, *, batch_size: int = 16):
        if batch_size < 1:
            raise ConfigError(f"batch_size={batch_size}", why="a batch holds something", fix="give at least 1")
        self.model = model
        self.processor = processor
        self.batch_size = batch_size
        self.faults: Counter[str] = Counter()

    @classmethod
    def learned(cls, objectives: Mapping[str, dict]) -> dict[str, object]:
        """Options that a model has learned to be scored with, told by the objectives that it was trained with."""
        return {}

    @property
    def notes(self) -> dict[str, str]:
        """What a result should say about how its scores were made."""
        return {"scorer": self.name}

    def __call__(self, asks: Sequence[Score]) -> list[float]:
        """One score per ask; NaN where the picture cannot be read or the text cannot be put to this model."""
        unique: dict[tuple, Score] = {}
        # A protocol may ask for one picture and text twice, with other questions; who cannot read them scores once.
        keys = [(ask.image_id or id(ask), ask.text, ask.question if self.reads_question else "") for ask in asks]
        for key, ask in zip(keys, asks, strict=True):
            unique.setdefault(key, ask)
        if not unique:
            return []
        with answering(self.model):
            scores = dict(zip(unique, self._score(list(unique.values())), strict=True))
        return [scores[key] for key in keys]

    @abstractmethod
    def _score(self, asks: Sequence[Score]) -> list[float]:
        """One number per ask; no two asks are the same."""

    def _pictures(self, asks: Sequence[Score]) -> Iterator[tuple[Image.Image, list[int]]]:
        """Each picture, opened once, with the places of the asks about it; one that cannot be read is counted."""
        places_of: dict[object, list[int]] = {}
        for place, ask in enumerate(asks):
            places_of.setdefault(ask.image_id or place, []).append(place)
        for places in places_of.values():
            try:
                image = asks[places[0]].load().convert("RGB")
            except (LynxError, OSError):
                self.faults["unreadable picture"] += len(places)
                continue
            yield image, places


SCORERS: Registry[type[Scorer]] = Registry("scorer")
UNSCORED = math.nan


def make_scorer(name: str, model, processor, **options) -> Scorer:
    """The scorer called `name`, ready for asks.

    Args:
        options: keyword arguments of its class, such as `batch_size`.

    Raises:
        ConfigError: there is no scorer of that name, or it has no such option.
    """
    kind = SCORERS.get(name)
    taken = inspect.signature(kind.__init__).parameters
    known = [n for n, parameter in taken.items() if parameter.kind is inspect.Parameter.KEYWORD_ONLY]
    for option in options:
        if option not in known:
            raise ConfigError(
                f"scorer {name!r} has no option {option!r}",
                why=f"it takes {', '.join(known)}",
                fix=f"did you mean {nearest(option, known)[0]!r}?",
            )
    needed = [n for n in known if taken[n].default is inspect.Parameter.empty and n not in options]
    if needed:
        raise ConfigError(
            f"scorer {name!r} needs {' and '.join(needed)}", why="it has no default", fix=f"give {needed[0]}=..."
        )
    return kind(model, processor, **options)


@contextmanager
def answering(model: torch.nn.Module) -> Iterator[None]:
    """Inside, `model` is in eval mode and keeps no gradients; afterwards every module is as it was."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def moved(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """`batch` on the model's device, pictures in its number type."""
    first = next(model.parameters())
    return {
        name: value.to(first.device, first.dtype if value.is_floating_point() else None)
        for name, value in batch.items()
    }


def takes(model: torch.nn.Module, argument: str) -> bool:
    """Whether the base's `forward` names `argument`."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return argument in inspect.signature(base.forward).parameters
