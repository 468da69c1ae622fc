"""Tensors on disk by key: one safetensors file per key, shared by any number of processes and runs.

One file per key and no index: it is there or not, for everybody at once, and nothing has to be kept in memory or
locked. A file is written aside and renamed, so that nobody meets half of one that is being written; one that is
damaged all the same (a machine that lost power) is found by its checksum, thrown away and made again.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from uuid import uuid4

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from tqdm.auto import tqdm

from lynx_moe.errors import ConfigError
from lynx_moe.whole import ASIDE

LEFT_BEHIND = 3600.0  # seconds after which a file that is being written has no writer any more


class Damaged(Exception):
    """A file is not what was written; it has been removed."""


class TensorStore:
    """Named tensors by key, of one kind.

    Args:
        folder: of all kinds; a folder below it, named by `about`, holds these.
        about: everything but the key's content that the tensors depend on. Another value never meets the same files.
        name: what it is called in messages. without: settings that help where it cannot write.

    Attributes:
        counts: over this object's life, what `made` read, computed and found damaged.

    Raises:
        ConfigError: the folder cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        about: Mapping[str, str | int | None],
        *,
        name: str = "the cache",
        without: str = "name a folder with room",
    ):
        self.about = dict(about)
        self.name = name
        lines = "".join(f"{name}={value!r}\n" for name, value in sorted(self.about.items()))
        self._digest = hashlib.sha256(lines.encode()).digest()
        self.folder = Path(folder) / self._digest.hex()[:20]
        self.full = False
        self.counts = {"read": 0, "computed": 0, "damaged": 0}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for path in self.folder.glob(f"{ASIDE}*"):
                if time.time() - path.stat().st_mtime > LEFT_BEHIND:
                    path.unlink(missing_ok=True)
        except OSError as problem:
            raise ConfigError(
                f"{name} cannot write to {self.folder}: {problem.strerror}",
                why="what was computed is kept there",
                fix=without,
            ) from problem

    def key(self, content: bytes) -> str:
        """The key of this content: sha256 over what the store is of and what the content is."""
        return hashlib.sha256(self._digest + content).hexdigest()

    def made(self, key: str, make: Callable[[], Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """The tensors under `key`, on the CPU; from `make()`, and stored, where there are none or they are damaged.

        What is stored is what `make` gives, so reading and computing give the same bits.
        """
        try:
            found = self.get(key)
        except Damaged:
            self.counts["damaged"] += 1
            found = None
        if found is not None:
            self.counts["read"] += 1
            return found
        tensors = {name: value.detach().cpu().contiguous() for name, value in make().items()}
        self.counts["computed"] += 1
        self.put(key, tensors)
        return tensors

    def put(self, key: str, tensors: Mapping[str, torch.Tensor]) -> None:
        """Stores tensors unless they are there. A disk without room is said once; after that nothing more is
        written.
        """
        path = self._path(key)
        if self.full or path.exists():
            return
        tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        # Two processes may store the same key at once: each writes a file of its own, and either is the right one.
        temporary = self.folder / f"{ASIDE}{uuid4().hex}"
        try:
            path.parent.mkdir(exist_ok=True)
            save_file(tensors, temporary, metadata={"crc32": str(checksum(tensors))})
            os.replace(temporary, path)
        except (OSError, SafetensorError) as problem:
            self.full = True
            tqdm.write(f"warning: {self.name} stores nothing more: {problem}; make room in {self.folder.parent}")
            try:
                temporary.unlink(missing_ok=True)
            except OSError:
                pass

    def get(self, key: str) -> dict[str, torch.Tensor] | None:
        """The tensors under `key`; None when none were ever stored, or they cannot be read.

        Raises:
            Damaged: their file is cut short or changed.
        """
        path = self._path(key)
        try:
            # One read: `safe_open` opens the path twice, once for the header and once for the tensors, and another
            # process's file, with other roundings, may come between the two.
            content = path.read_bytes()
            tensors = load(content)
            whole = written_checksum(content) == str(checksum(tensors))
        except OSError:  # not there, or not to be read now, which is no reason to throw it away
            return None
        except (SafetensorError, ValueError, KeyError):
            whole = False
        if not whole:
            path.unlink(missing_ok=True)
            raise Damaged(str(path))
        return tensors

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key[2:]}.safetensors"


def written_checksum(content: bytes) -> str:
    """The checksum in a stored file's header."""
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length])["__metadata__"]["crc32"]


def checksum(tensors: Mapping[str, torch.Tensor]) -> int:
    """CRC-32 over names, types, shapes and bytes."""
    total = 0
    for name, value in sorted(tensors.items()):
        total = zlib.crc32(f"{name} {value.dtype} {tuple(value.shape)}".encode(), total)
        total = zlib.crc32(value.reshape(-1).view(torch.uint8).numpy(), total)
    return total
