"""`lynx-moe bench cache`: training with the frozen-prefix cache against the same training without it."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import replace
from io import StringIO
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from lynx_moe.bench.step import POCKET
from lynx_moe.bench.timing import compare, in_turn, prepared
from lynx_moe.training import run
from lynx_moe.training.arguments import training_arguments
from lynx_moe.training.folder import RunFolder
from lynx_moe.training.prefix_cache import PrefixCache
from lynx_moe.training.preparing import prepare
from lynx_moe.training.records import make_missing
from lynx_moe.training.settings import (
    AdapterSettings,
    DataSettings,
    ModelSettings,
    ObjectiveSettings,
    Settings,
    TrainerSettings,
)
from lynx_moe.training.trainer import LynxTrainer

WAYS = ("off", "cached")


def bench_cache(
    path: str = POCKET,
    *,
    mode: str = "decoder",
    layers: str = "upper_half",
    records: int = 512,
    batch_size: int = 32,
    retention_kl: float = 1.0,
    rounds: int = 5,
    strengths: int = 8,
    epochs: float = 3.0,
    threads: int | None = None,
) -> dict:
    """Times epochs that read the cache against epochs without it, and a sweep over gating strengths with and without.

    Epochs are those after the first, in turn in one process: loading, forward, backward and AdamW. The sweep's runs are
    whole ones, one after another, each strength once with and once without, on a cache that is empty at the start.

    Args:
        records: number of records, eight a picture, which synth draws.
        rounds: epochs of each way. strengths: runs of each way; 0: none.

    Returns:
        "rows": for "epoch" and "sweep" `seconds` without and `cached_seconds`, and `faster`, how many times; for epochs
        with quartiles over rounds; "bytes_per_record" on disk; "setting", what was measured where.
    """
    with prepared(threads), tempfile.TemporaryDirectory() as folder:
        there, pictures = Path(folder), max(8, records // 8)
        settings = Settings(
            model=ModelSettings(path=path, attention="eager" if path == POCKET else None),
            adapter=AdapterSettings(layers=layers, prompt_gate="on"),
            data=DataSettings(
                folder=str(there / "data"), limit=records, make={"train": ["source=rendered", f"size={pictures}"]}
            ),
            trainer=TrainerSettings(
                batch_size=batch_size, epochs=epochs, progress=False, save_every=0, prefix_cache=mode, log_every=1000
            ),
            objective=ObjectiveSettings(retention_kl=retention_kl),
            output_dir=str(there / "run"),
            overwrite=True,
        )  # fmt: skip
        make_missing(settings.data)
        rows = [_epochs(settings, rounds)]
        stored = [path.stat().st_size for path in (there / "data").rglob("prefix-cache/*/*/*.safetensors")]
        if strengths:
            rows.append(_sweep(settings, strengths))
        setting = {"base": path, "mode": mode, "layers": layers, "records": records, "batch_size": batch_size}
        setting |= {"retention_kl": retention_kl, "epochs_per_run": epochs, "threads": torch.get_num_threads()}
        return {"ok": True, "rows": rows, "bytes_per_record": sum(stored) / records, "setting": setting}


def _way(settings: Settings, way: str) -> Settings:
    return replace(settings, trainer=replace(settings.trainer, **({"prefix_cache": "off"} if way == "off" else {})))


def _epochs(settings: Settings, rounds: int) -> dict:
    ways = {way: _epoch(_way(settings, way)) for way in WAYS}
    # Warmed up once: the cache is full then, and pictures are prepared in memory for the other.
    taken = in_turn(ways, lambda: None, repeats=rounds, seconds=0.0)
    found = compare(taken, to="cached")
    row = {"what": "epoch", "seconds": found["off"]["seconds"], "cached_seconds": found["cached"]["seconds"]}
    row |= {"faster": found["off"]["ratio"], "low": found["off"]["ratio_low"], "high": found["off"]["ratio_high"]}
    return _said(row | {"rounds": rounds})


def _epoch(settings: Settings) -> Callable[[None], None]:
    """One pass over the records as a run makes it, with model, data and optimiser that stay between passes."""
    with redirect_stderr(StringIO()):
        ready = prepare(settings, quiet=True)
    prefix = PrefixCache(ready, settings) if settings.trainer.prefix_cache != "off" else None
    trainer = LynxTrainer(
        ready.model,
        training_arguments(settings, RunFolder(settings.output_dir)),
        retention_kl=settings.objective.retention_kl,
        progress=False,
        prefix=prefix,
    )
    trainer.current_gradient_accumulation_steps = 1
    ready.model.train()
    optimiser = torch.optim.AdamW([p for p in ready.model.parameters() if p.requires_grad], lr=1e-4)
    loader = DataLoader(
        prefix.dataset if prefix else ready.dataset,
        batch_size=settings.trainer.batch_size,
        shuffle=True,
        generator=torch.Generator().manual_seed(0),
        collate_fn=prefix.collator if prefix else ready.collator,
    )
    device = next(ready.model.parameters()).device

    def epoch(_: None) -> None:
        for batch in loader:
            trainer.training_step(trainer.model, batch, trainer._get_num_items_in_batch([batch], device))
            optimiser.step()
            optimiser.zero_grad()

    return epoch


def _sweep(settings: Settings, strengths: int) -> dict:
    seconds = dict.fromkeys(WAYS, 0.0)
    cache = Path(settings.data.folder).with_name("sweep-cache")
    for number in range(strengths):
        order = WAYS if number % 2 else WAYS[::-1]
        for way in order:
            chosen = _way(settings, way)
            chosen.adapter = replace(settings.adapter, gate_sparsity=10.0 ** (number - strengths))
            chosen.trainer.cache_dir = str(cache)
            began = time.perf_counter()
            with redirect_stderr(StringIO()):
                run(chosen)
            seconds[way] += time.perf_counter() - began
    row = {"what": "sweep", "strengths": strengths, "seconds": seconds["off"], "cached_seconds": seconds["cached"]}
    return _said(row | {"faster": seconds["off"] / seconds["cached"]})


def _said(row: dict) -> dict:
    spread = f" (quartiles {row['low']:.2f} to {row['high']:.2f})" if "low" in row else ""
    print(
        f"{row['what']}: {row['seconds']:.1f} s without, {row['cached_seconds']:.1f} s with the cache, "
        f"{row['faster']:.2f} times faster{spread}",
        file=sys.stderr,
    )
    return row
