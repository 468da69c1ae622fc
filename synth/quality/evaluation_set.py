"""Pictures that models are measured on: a data set must not hold them, nor pictures that look like them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from synth.errors import SourceError
from synth.quality.hashes import UNREADABLE, Look, look_of
from synth.quality.near import THRESHOLD, check_threshold, second_threshold
from synth.quality.tables import Tables
from synth.sources.pictures import SUFFIXES


@dataclass(frozen=True, slots=True)
class Match:
    """A picture of an evaluation set that looks like the one asked about; ``distance`` None: the very same pixels."""

    name: str
    distance: int | None


class EvaluationSet:
    """The looks of all pictures in some folders, held in memory: 16 bytes, a digest and a name each.

    ``unreadable`` names the files that are no pictures after all.

    Args:
        folders: folders of picture files (searched with their subfolders) or dataset folders of synth.
        threshold: bits of 64 in which a look-alike may differ, 0 to 15; the same pixels are found in any case.

    Raises:
        SourceError: a folder holds no readable picture. SettingsError: the threshold is outside its range.
    """

    def __init__(self, folders: Iterable[str | Path], threshold: int = THRESHOLD) -> None:
        check_threshold(threshold)
        self.threshold = threshold
        self.names: list[str] = []
        self.unreadable: list[str] = []
        self._exact: dict[str, int] = {}
        near: list[tuple[int, int]] = []
        for folder in map(Path, folders):
            before = len(self.names)
            for name, look in looks_in(folder, self.unreadable):
                self._exact.setdefault(look.exact, len(self.names))
                self.names.append(name)
                near.append(look.near)
            if len(self.names) == before:
                raise SourceError(
                    f"{folder} holds no readable picture", why="nothing could be compared with it",
                    fix="name a folder of picture files, or a dataset folder that synth finished",
                )  # fmt: skip
        self._near = np.array(near, np.uint64).reshape(-1, 2)

    def find(self, look: Look) -> Match | None:
        """Return the picture with the same pixels, else the one that looks most alike within the threshold, if any."""
        if look.exact in self._exact:
            return Match(self.names[self._exact[look.exact]], None)
        apart, second = np.bitwise_count(self._near ^ np.array(look.near, np.uint64)).T
        alike = np.flatnonzero((apart <= self.threshold) & (second <= second_threshold(self.threshold)))
        closest = min(alike.tolist(), key=lambda k: apart[k], default=None)
        return None if closest is None else Match(self.names[closest], int(apart[closest]))

    def fingerprint(self) -> dict:
        """Return what decides the answers of ``find``: a digest of all looks, and the threshold."""
        digest = hashlib.sha256("".join(sorted(self._exact)).encode()).hexdigest()
        return {"pictures_sha256": digest, "threshold": self.threshold}


def looks_in(folder: Path, unreadable: list[str]) -> Iterator[tuple[str, Look]]:
    """Yield name and look of every picture of a folder in the order of their names; bad files go to ``unreadable``."""
    for name, data in _encoded(folder):
        try:
            yield name, look_of(data() if callable(data) else data)
        except UNREADABLE:
            unreadable.append(name)


def _encoded(folder: Path) -> Iterator[tuple[str, object]]:
    if (folder / "manifest.json").exists():
        tables = Tables(folder)
        for shard in tables.shards:
            for row in tables.pictures(shard):
                yield row["image_id"], tables.data(shard, row) or b""
        return
    root = folder.resolve()
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file()):
        if path.resolve().is_relative_to(root):  # a link may point anywhere
            yield path.relative_to(folder).as_posix(), path.read_bytes
