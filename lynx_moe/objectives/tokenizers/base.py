"""What a picture tokenizer is: frozen, made of a folder, and no part of the model that trains.

Legend of shape suffixes: `H`, `W` pixels, `M` numbers at a place of its map, `Y`, `X` places, `N` tokens of the base's
grid, `C` numbers of a token.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from lynx_moe.digests import network_sha256
from lynx_moe.errors import CheckpointError, ConfigError, FamilyError
from lynx_moe.registry import Registry


class Tokenizer(ABC):
    """Makes a map of numbers of a picture, `fold` x `fold` places of it to a token of the base's grid.

    No `nn.Module`, so that no optimiser, checkpoint or launcher meets its weights.

    Args:
        path: folder of the weights, for those that have any.
        fold: places per side of a token; None for what is usual.

    Attributes:
        stride: pixels per side of a place. depth: M. cell: pixels per side of a token. channels: C.
        caches: whether what `encode` gives is worth keeping on disk.
    """

    usual_fold: ClassVar[int] = 1
    caches: ClassVar[bool] = True
    stride: int
    depth: int

    def __init__(self, path: str | None = None, fold: int | None = None):
        self.path = path
        self.fold = fold or self.usual_fold

    @property
    def cell(self) -> int:
        return self.stride * self.fold

    @property
    def channels(self) -> int:
        return self.depth * self.fold**2

    @property
    @abstractmethod
    def identity(self) -> str:
        """sha256 of what decides its numbers."""

    @abstractmethod
    def encode(self, picture_3HW: Tensor) -> dict[str, Tensor]:
        """What is known of a picture (float32, 0..1), by name: what `draw` needs, and what is cached."""

    def draw(self, known: dict[str, Tensor], generator: torch.Generator | None = None) -> Tensor:
        """(M, Y, X) the map, drawn where it is a distribution."""
        return self.mean(known)

    @abstractmethod
    def mean(self, known: dict[str, Tensor]) -> Tensor:
        """(M, Y, X) the map, or its mean where it is a distribution."""

    def decode(self, map_MYX: Tensor) -> Tensor:
        """(3, H, W) the picture of a map, in about 0..1, with a gradient.

        Raises:
            ConfigError: it has no way back.
        """
        raise ConfigError(
            f"the tokenizer {type(self).__name__} has no decoder",
            why="it turns pictures into numbers and not back",
            fix="use vae, pocket or pixels, or objective.reconstruction.through_decoder=false",
        )

    def tokens(self, map_MYX: Tensor, grid: tuple[int, int]) -> Tensor:
        """(N, C) the map on a grid of (rows, columns) tokens, row by row.

        Raises:
            FamilyError: it does not cover that grid.
        """
        (rows, columns), fold = grid, self.fold
        if tuple(map_MYX.shape[1:]) != (rows * fold, columns * fold):
            found = " x ".join(str(size) for size in map_MYX.shape[1:])
            raise FamilyError(
                f"the tokenizer {type(self).__name__} gives a picture {found} places, where the base's grid of "
                f"{rows} x {columns} tokens needs {rows * fold} x {columns * fold}",
                why=f"of {rows * self.cell} x {columns * self.cell} pixels, {self.cell} per token, it was to make "
                f"{fold} x {fold} places per token",
                fix="use a tokenizer that takes pictures of any size in steps of its patch (vae, pixels, DINOv2)",
            )
        parts = map_MYX.reshape(-1, rows, fold, columns, fold).permute(1, 3, 0, 2, 4)
        return parts.reshape(rows * columns, self.channels)

    def map(self, tokens_NC: Tensor, grid: tuple[int, int]) -> Tensor:
        """(M, Y, X) of what `tokens` gave: its inverse."""
        (rows, columns), fold = grid, self.fold
        parts = tokens_NC.reshape(rows, columns, self.depth, fold, fold).permute(2, 0, 3, 1, 4)
        return parts.reshape(self.depth, rows * fold, columns * fold)


class NetworkTokenizer(Tokenizer):
    """One with a network, of a folder.

    Making one reads no weights; they are loaded where pictures are first seen, onto their device.

    Raises:
        ConfigError: there is nothing usable at `path`.
    """

    @cached_property
    def identity(self) -> str:
        return network_sha256(self.folder)

    @property
    def folder(self) -> Path:
        if self.path is None or not (Path(self.path) / "config.json").is_file():
            raise ConfigError(
                f"objective.reconstruction.path is {self.path!r}",
                why=f"the tokenizer {type(self).__name__} is loaded from a folder with a config.json and safetensors",
                fix="give such a folder, or objective.reconstruction.tokenizer=pocket or pixels, which need none",
            )
        return Path(self.path)

    @abstractmethod
    def load(self) -> tuple[nn.Module, list[str]]:
        """The network of `folder` from its safetensors, and the names of weights that it lacks."""

    @cached_property
    def network(self) -> nn.Module:
        """The frozen network, float32.

        Raises:
            CheckpointError: the folder does not hold it whole.
        """
        # A run that goes on loads it at another moment, or not at all where all is cached: nobody's draws may change.
        with torch.random.fork_rng(devices=[]):
            try:
                network, missing = self.load()
            except (OSError, ValueError, RuntimeError, SafetensorError) as problem:
                network, missing = None, [str(problem).splitlines()[0]]
        if missing:
            raise CheckpointError(
                f"{self.folder} does not load as the tokenizer {type(self).__name__}",
                why=f"missing or broken: {', '.join(missing[:3])}",
                fix="copy its config.json and its safetensors again",
            )
        return network.float().eval().requires_grad_(False)


TOKENIZERS: Registry[type[Tokenizer]] = Registry("picture tokenizer")
