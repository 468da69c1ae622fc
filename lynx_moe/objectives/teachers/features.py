"""A teacher's features of pictures: from disk where they are, else computed and kept there."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lynx_moe.digests import network_sha256
from lynx_moe.objectives.teachers.base import TEACHERS, Teacher
from lynx_moe.objectives.teachers.files import Preparing, teacher_folder
from lynx_moe.tensor_store import TensorStore

MAP = "map"


class TeacherFeatures:
    """Maps of pictures by one teacher, each computed once for all epochs, runs and processes that share the folder.

    Pictures are computed one by one, so that what is kept does not depend on what else was in a batch. The teacher is
    loaded when the first picture is lacking.

    Args:
        kind, path, layer, size, dtype: of the teacher, as in `objective.distil`.
        cache_dir: folder of all teachers' features.

    Attributes:
        shape: (C, h, w) of every map.
        identity: sha256 of the teacher's weights and settings.

    Raises:
        ConfigError: there is no such teacher, or the folder cannot be written. FamilyError: it gives no such map.
    """

    def __init__(self, *, kind: str, path: str, layer: int, size: int, dtype: str, cache_dir: str):
        self.kind, self.layer, self.dtype = TEACHERS.get(kind), layer, getattr(torch, dtype)
        self.folder = teacher_folder(path)
        self.preparing = Preparing.from_folder(self.folder, size)
        self.identity = network_sha256(self.folder)
        about = {"teacher": kind, "identity": self.identity, "layer": layer, "size": size, "dtype": dtype}
        self.store = TensorStore(
            Path(cache_dir), about, name="the cache of teachers' features",
            without="objective.distil.cache_dir=/a/folder/with/room",
        )  # fmt: skip
        self._teacher: Teacher | None = None
        blank = np.zeros((3, self.preparing.height, self.preparing.width), dtype=np.uint8)
        self.shape = tuple(self(torch.from_numpy(blank), content_of(blank)).shape)

    def __call__(self, picture_3HW: Tensor, content: bytes) -> Tensor:
        """(C, h, w) float16 on the CPU.

        Args:
            picture_3HW: uint8, as `Preparing.seen` makes it; where it lies, the teacher computes.
            content: what `content_of` says of it.
        """
        return self.store.made(self.store.key(content), lambda: {MAP: self._computed(picture_3HW)})[MAP]

    def _computed(self, picture_3HW: Tensor) -> Tensor:
        if self._teacher is None:
            self._teacher = self.kind(self.folder, layer=self.layer, dtype=self.dtype)
        return self._teacher(self.preparing.normalised(picture_3HW[None]))[0]


def content_of(picture_3HW: np.ndarray) -> bytes:
    """(32,) bytes that tell a prepared picture from every other."""
    return hashlib.sha256(f"{picture_3HW.shape}".encode() + picture_3HW.tobytes()).digest()
