"""A few records of every task to look at: chosen by the hash of their ids, so that no part of the data is favoured."""

from __future__ import annotations

import heapq
import zlib
from dataclasses import dataclass

from synth.quality.tables import Encoded, Tables
from synth.record import named_pictures

PER_TASK = 12
_MISSING = Encoded(None, (0, 0))  # a damaged folder: its images table lacks the picture of a record


@dataclass(frozen=True, slots=True)
class Sample:
    """One record to show, with its pictures."""

    record: dict
    pictures: tuple[Encoded, ...]


class Samples:
    """Keeps the ``PER_TASK`` records of each task that hash lowest; gets their pictures afterwards."""

    def __init__(self) -> None:
        self._kept: dict[str, list[tuple[int, str, int, dict]]] = {}

    def offer(self, task: str, shard: int, record: dict) -> None:
        """Consider a record with a picture, of shard number ``shard``."""
        heap = self._kept.setdefault(task, [])
        entry = (-zlib.crc32(record["id"].encode()), record["id"], shard, record)
        if len(heap) < PER_TASK:
            heapq.heappush(heap, entry)
        elif entry[:2] > heap[0][:2]:
            heapq.heapreplace(heap, entry)

    def with_pictures(self, tables: Tables) -> dict[str, list[Sample]]:
        """Return the samples of every task, with their pictures."""
        wanted: dict[int, set[str]] = {}
        for heap in self._kept.values():
            for _, _, shard, record in heap:
                wanted.setdefault(shard, set()).update(named_pictures(record))
        found = {shard: tables.encoded(tables.shards[shard], ids) for shard, ids in sorted(wanted.items())}
        return {
            task: [
                Sample(record, tuple(found[shard].get(name, _MISSING) for name in named_pictures(record)))
                for _, _, shard, record in sorted(heap)[::-1]
            ]
            for task, heap in sorted(self._kept.items())
        }
