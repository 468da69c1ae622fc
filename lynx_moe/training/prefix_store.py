"""Frozen-prefix states on disk: one safetensors file per row, shared by any number of processes and runs.

One file per row and no index: a row is there or not, for everybody at once, and nothing has to be kept in memory or
locked. A file is written aside and renamed, so that nobody meets half of one that is being written; one that is
damaged all the same (a machine that lost power) is found by its checksum, thrown away and made again.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import zlib
from collections.abc import Mapping
from pathlib import Path
from uuid import uuid4

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from tqdm.auto import tqdm

from lynx_moe.errors import ConfigError
from lynx_moe.whole import ASIDE

STATES = "states"
ABOUT = "about.json"
LEFT_BEHIND = 3600.0  # seconds after which a file that is being written has no writer any more


class Damaged(Exception):
    """A file is not what was written; it has been removed."""


class PrefixStore:
    """Rows of one kind of prefix: tensors by key.

    Args:
        folder: of all prefixes; a folder below it, named by `about`, holds these rows.
        about: everything but the sample that the states depend on. Another value never meets the same rows.

    Raises:
        ConfigError: the folder cannot be written.
    """

    def __init__(self, folder: Path, about: Mapping[str, str | int | None]):
        self.about = dict(about)
        lines = "".join(f"{name}={value!r}\n" for name, value in sorted(self.about.items()))
        self._digest = hashlib.sha256(lines.encode()).digest()
        self.folder = folder / self._digest.hex()[:20]
        self.full = False
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for path in self.folder.glob(f"{ASIDE}*"):
                if time.time() - path.stat().st_mtime > LEFT_BEHIND:
                    path.unlink(missing_ok=True)
        except OSError as problem:
            raise ConfigError(
                f"the prefix cache cannot write to {self.folder}: {problem.strerror}",
                why="computed states are kept there",
                fix="trainer.cache_dir=/a/folder/with/room, or trainer.prefix_cache=off",
            ) from problem

    def key(self, content: bytes) -> str:
        """The name of the row with this content: sha256 over what the prefix is and what the sample is."""
        return hashlib.sha256(self._digest + content).hexdigest()

    def put(self, key: str, tensors: Mapping[str, torch.Tensor]) -> None:
        """Stores a row unless it is there. A disk without room is said once; after that nothing more is written."""
        path = self._path(key)
        if self.full or path.exists():
            return
        tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        # Two processes may store the same row at once: each writes a file of its own, and either is the row.
        temporary = self.folder / f"{ASIDE}{uuid4().hex}"
        try:
            path.parent.mkdir(exist_ok=True)
            save_file(tensors, temporary, metadata={"crc32": str(checksum(tensors))})
            os.replace(temporary, path)
        except (OSError, SafetensorError) as problem:
            self.full = True
            tqdm.write(f"warning: the prefix cache stores nothing more: {problem}; make room in {self.folder.parent}")
            try:
                temporary.unlink(missing_ok=True)
            except OSError:
                pass

    def get(self, key: str) -> dict[str, torch.Tensor] | None:
        """The row's tensors; None when it was never stored.

        Raises:
            Damaged: its file is cut short or changed.
        """
        path = self._path(key)
        try:
            # One read: `safe_open` opens the path twice, once for the header and once for the tensors, and another
            # process's row, with other roundings, may come between the two.
            content = path.read_bytes()
            tensors = load(content)
            whole = written_checksum(content) == str(checksum(tensors))
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError, ValueError, KeyError):
            whole = False
        if not whole:
            path.unlink(missing_ok=True)
            raise Damaged(str(path))
        return tensors

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key[2:]}.safetensors"

    def note(self, found: dict) -> None:
        """Writes down what was found out about these states, and what they are, for the next run."""
        # Not `write_json`, whose name for what is being written is one for all: several runs may come to this at once.
        temporary = self.folder / f"{ASIDE}{uuid4().hex}"
        temporary.write_text(json.dumps({"of": self.about, "found": found}, indent=2) + "\n", encoding="utf-8")
        os.replace(temporary, self.folder / ABOUT)

    def noted(self) -> dict | None:
        """What `note` was given by an earlier run; None when nobody came so far."""
        try:
            return json.loads((self.folder / ABOUT).read_text(encoding="utf-8"))["found"]
        except (OSError, ValueError, KeyError, TypeError):
            return None


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
