"""Frozen-prefix states on disk: a row's tensors by its key, and what was found out about them for the next run."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from uuid import uuid4

from lynx_moe.tensor_store import TensorStore
from lynx_moe.whole import ASIDE

STATES = "states"
ABOUT = "about.json"


class PrefixStore(TensorStore):
    """Rows of one kind of prefix: tensors by key.

    Args:
        folder: of all prefixes; a folder below it, named by `about`, holds these rows.
        about: everything but the sample that the states depend on. Another value never meets the same rows.

    Raises:
        ConfigError: the folder cannot be written.
    """

    def __init__(self, folder: Path, about: Mapping[str, str | int | None]):
        super().__init__(
            folder,
            about,
            name="the prefix cache",
            without="trainer.cache_dir=/a/folder/with/room, or trainer.prefix_cache=off",
        )

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
