"""What the card of a run, run.json, says beside the training's own numbers."""

from __future__ import annotations

import hashlib
import json
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from accelerate.utils import gather_object

import lynx_moe
from lynx_moe.data import Collator, PackedDataset, SampleDataset
from lynx_moe.data.screening import readable
from lynx_moe.training.preparing import Prepared
from lynx_moe.training.settings import Settings

LOOKED_AT = 64  # records whose gates go into the card


def look_at(prepared: Prepared, device: torch.device) -> list[dict]:
    """Some records, evenly spread over the training set, as batches on `device`."""
    records = prepared.dataset.records
    step = max(1, len(records) // LOOKED_AT)
    samples = list(SampleDataset(records.select(range(0, len(records), step)[:LOOKED_AT]), prepared.builder))
    collate = Collator(prepared.processor)  # not the run's own, whose rows may be packed
    batches = [collate(samples[start : start + 8]) for start in range(0, len(samples), 8)]
    return [{name: value.to(device) for name, value in batch.items()} for batch in batches]


def last_logged(history: list[dict]) -> dict[str, float]:
    """The newest value of each thing that was logged on the way, under its own name with `last_` before it."""
    newest = next((row for row in reversed(history) if "loss" in row), {})
    return {f"last_{name}": value for name, value in newest.items() if name not in ("step", "epoch")}


def log_line(row: dict) -> str:
    """A row of log.jsonl: its step first, the rest by name, since a row read from a checkpoint has lost its order.

    Without what the clock decides: a resumed run writes the same bytes as one that never stopped.
    """
    row = {name: value for name, value in row.items() if name != "tokens_per_second"}
    first = {name: row[name] for name in ("step", "epoch") if name in row}
    return json.dumps(first | dict(sorted(row.items())))


def describe_data(settings: Settings) -> dict:
    manifest = Path(settings.data.folder) / "manifest.json"
    return {"folder": settings.data.folder, "manifest_sha256": hashlib.sha256(manifest.read_bytes()).hexdigest()}


def describe_left_out(dataset: SampleDataset | PackedDataset, met: set[int]) -> dict:
    """How many records were left out and why: at the start, and among those met while training.

    Args:
        met: positions, in the dataset's records, of those that this process passed by.
    """
    counts = dataset.left_out.counts.copy()
    for position in sorted(set(gather_object(sorted(met)))):
        found = dataset.screen.look(dataset.records[position])
        if isinstance(found, list):
            found = ("beside" if readable(dataset.records[position]) else "unreadable",)
        counts[found[0]] += 1
    return {"left_out": counts.total(), "left_out_why": dict(counts)}


def versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "lynx_moe": lynx_moe.__version__}
    for package in ("torch", "transformers", "peft", "accelerate", "datasets", "bitsandbytes", "deepspeed"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            pass
    return found
