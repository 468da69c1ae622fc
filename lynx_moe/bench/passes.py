"""Passes over the same records in several ways of making batches: what the data benches time."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from lynx_moe.adapter import LynxConfig
from lynx_moe.adapter.attaching import attach_adapter
from lynx_moe.bench.timing import compare, in_turn
from lynx_moe.data import RecordSet, load_records
from lynx_moe.errors import ConfigError
from lynx_moe.training.base import choose_precision, load_base
from lynx_moe.training.loss import AnswerLoss
from lynx_moe.training.method import open_gate
from lynx_moe.training.records import make_missing
from lynx_moe.training.samples import sample_builder, training_samples
from lynx_moe.training.settings import DataSettings, ModelSettings, Settings


@dataclass(frozen=True)
class Way:
    """All records as batches. `tokens` counts padding too, `filled` only tokens that are none."""

    batches: list[dict]
    rows: int
    tokens: int
    filled: int


class Bench:
    """A base with a fresh adapter, and records; ways of batching them are timed on both.

    Args:
        path: a base VLM. attention: its implementation; None: its own choice. layers: where the blocks go.
        precision: as in training.
    """

    def __init__(self, path: str, records: RecordSet, *, attention: str | None, layers: str, precision: str):
        self.settings = Settings(model=ModelSettings(path=path, attention=attention))
        self.base, self.processor = load_base(self.settings.model)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.records = records
        self.precision = choose_precision(precision)
        self.model = attach_adapter(self.base, LynxConfig(layers=layers, prompt_gate="on")).to(self.device).train()
        self.loss = AnswerLoss(self.model)
        self.optimiser = torch.optim.AdamW([p for p in self.model.parameters() if p.requires_grad], lr=1e-4)

    def way(self, records_per_batch: int, *, by_length: bool = False, **changes: object) -> Way:
        """All records as batches of about so many, made as a run with these settings makes them.

        Args:
            by_length: rows of like length side by side, else in a fixed random order.
            changes: data and objective settings, by name.
        """
        groups = {name: getattr(self.settings, name) for name in ("data", "objective")}
        for name, group in groups.items():
            groups[name] = replace(group, **{k: v for k, v in changes.items() if hasattr(group, k)})
        settings = replace(self.settings, **groups)
        builder = sample_builder(settings, self.processor)
        dataset, collate = training_samples(settings, self.base, builder, self.records)
        rows = [dataset[k] for k in range(len(dataset))]
        size = max(1, round(records_per_batch * len(rows) / len(self.records)))
        if by_length:
            rows.sort(key=lambda row: len(row["input_ids"]))
        else:
            random.Random(0).shuffle(rows)
        made = [collate(rows[start : start + size]) for start in range(0, len(rows), size)]
        flat = [row for each in rows for row in (each if isinstance(each, list) else [each])]
        return Way(
            batches=[{k: v.to(self.device) if isinstance(v, Tensor) else v for k, v in each.items()} for each in made],
            rows=sum(len(batch["input_ids"]) for batch in made),
            tokens=sum(batch["input_ids"].numel() for batch in made),
            filled=sum(len(row["input_ids"]) for row in flat),
        )

    def time(self, ways: Mapping[str, Way], *, to: str, repeats: int, seconds: float) -> dict[str, dict]:
        """Per way, of a pass over all records with forward, backward and AdamW: `compare` to the way `to`, and
        `records_per_second`."""
        taken = in_turn(
            {name: self._pass(way.batches) for name, way in ways.items()},
            lambda: None,
            repeats=repeats,
            seconds=seconds,
            most=10 * repeats,
        )
        found = compare(taken, to=to)
        for row in found.values():
            row["records_per_second"] = len(self.records) / row["seconds"]
        return found

    def _pass(self, batches: Sequence[dict]) -> Callable[[None], None]:
        cast = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.precision)

        def run(_: None) -> None:
            for batch in batches:
                with open_gate(self.model), torch.autocast(self.device.type, cast, enabled=cast is not None):
                    self.loss(self.model, batch, self.loss.counts(batch)).loss.backward()
                self.optimiser.step()
                self.optimiser.zero_grad()

        return run

    def setting(self) -> dict:
        """What was measured where."""
        return {
            "base": self.settings.model.path,
            "device": str(self.device),
            "threads": torch.get_num_threads(),
            "precision": self.precision,
            "attention": self.settings.model.attention,
            "records": len(self.records),
            "torch": torch.__version__,
        }


@contextmanager
def bench_records(
    folder: str | None, split: str, make: Sequence[str], count: int, keep: Callable | None = None
) -> Iterator[RecordSet]:
    """At most `count` grounding records of `folder`, or of a folder made for the while as `make` tells synth.

    Args:
        keep: only those records; None: all.

    Raises:
        ConfigError: none is left.
    """
    with TemporaryDirectory() as made:
        if folder is None:
            folder, split = str(Path(made, "data")), "train"
            make_missing(DataSettings(folder=folder, make={split: list(make)}))
        records = load_records(folder, split, kinds=["grounding"])
        chosen = [k for k in range(len(records)) if keep is None or keep(records[k])][:count]
        if not chosen:
            raise ConfigError(
                f"{folder} holds no record to measure on", why=f"split {split!r}", fix="give another --data or --split"
            )
        yield records.select(chosen)
