"""One shard, start to end: what every runner does in its own place."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from synth import folder
from synth.errors import disk_trouble
from synth.quality.gate import Gate
from synth.settings import Settings
from synth.shard import make_shard
from synth.sources import Source

Job = tuple[int, range]  # number of the shard, indices of its pictures


def one_shard(
    source: Source, gate: Gate, settings: Settings, job: Job, work: Path, tick: Callable[[int], None]
) -> dict:
    """Make a shard in the folder ``work`` and return its report, which is written last: with it the shard is done."""
    k, indices = job
    records, images = work / f"{k}.records.parquet", work / f"{k}.images.parquet"
    report = make_shard(source, gate, settings, indices, records, images, tick)
    with disk_trouble(work):
        folder.write_whole(work / f"{k}.json", json.dumps(report))
    return report
