"""Everything a training needs before its first step: the base with its adapter, and the records as samples.

`lynx-moe doctor` looks at the same thing, made by the same function, without training it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn
from tqdm.auto import tqdm
from transformers import ProcessorMixin, set_seed

from lynx_moe.data import Collator, PackedDataset, RecordSet, SampleBuilder, SampleDataset, load_records
from lynx_moe.errors import RecordError
from lynx_moe.objectives.attached import heads_of
from lynx_moe.training.base import load_base
from lynx_moe.training.hashing import BaseHash, hash_base
from lynx_moe.training.heads import attach_heads, refuse_nothing_to_learn, set_but_off
from lynx_moe.training.memory import keep_freed_memory
from lynx_moe.training.method import attach, is_gated, only_adapter_trains
from lynx_moe.training.prompt_gate import fit_on_records
from lynx_moe.training.records import splits_in
from lynx_moe.training.samples import sample_builder, training_samples
from lynx_moe.training.settings import DataSettings, Settings


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What is ready to train.

    Attributes:
        model: the PEFT model; only the adapter's parameters train.
        base_path: what the base was loaded from. base_hash: its bytes before anything could touch them.
        prompt_gate: how the fitting of the prompt gate went, for the card.
        trainable: number of parameters that train.
        held_out: what to measure the loss on now and then, made like `dataset`; None when it is not asked for.
    """

    model: nn.Module
    processor: ProcessorMixin
    base_path: str
    base_hash: BaseHash
    prompt_gate: dict
    trainable: int
    builder: SampleBuilder
    records: RecordSet
    dataset: SampleDataset | PackedDataset
    collator: Collator
    held_out: SampleDataset | PackedDataset | None


def prepare(settings: Settings, *, quiet: bool = False, prompt_gate: dict | None = None) -> Prepared:
    """The base loaded, its adapter attached, the prompt gate fitted, the records ready to be read.

    Args:
        quiet: print nothing (all processes but the first).
        prompt_gate: how its fitting went, when that was done already: a checkpoint will bring the head.

    Raises:
        ConfigError: a setting that nothing can honour.
        RecordError: no usable records, or none that a chosen objective can learn from. FamilyError: no block in this
            base to wrap, or it cannot train on packed rows, or not with a chosen objective.
    """
    base, processor = load_base(settings.model, settings.quant)
    if base.device.type == "cpu":
        keep_freed_memory()
    base_hash = hash_base(base)
    # Loading may have drawn numbers, under ZeRO-3 above all: new experts start alike everywhere.
    set_seed(settings.seed)
    model = attach(base, settings, base_hash)
    attach_heads(model, settings, processor)
    trainable = only_adapter_trains(model)
    if not quiet:
        beside = sum(p.numel() for head in heads_of(model).values() for p in head.parameters())
        heads = f" and {beside:,} of heads beside it: {', '.join(heads_of(model))}" if beside else ""
        tqdm.write(f"{trainable - beside:,} parameters of the adapter train{heads}; nothing of the base does")
        for name in set_but_off(settings):
            tqdm.write(f"note: objective.{name} has settings and weighs 0, so it is off; +objective/extra={name} is on")

    builder = sample_builder(settings, processor)
    records = training_records(settings)
    mode = settings.adapter.prompt_gate if is_gated(model) else None
    gate = prompt_gate or {"mode": mode, "fitted": False}
    if mode == "auto" and prompt_gate is None:
        gate |= fit_on_records(model, builder, *gate_records(settings), seed=settings.seed)
    refuse_nothing_to_learn(builder, records)
    dataset, collator = training_samples(settings, base, builder, records)
    held_out = None
    if settings.trainer.evaluate_every:
        held_out, _ = training_samples(settings, base, builder, held_out_records(settings))
    return Prepared(
        model=model,
        processor=processor,
        base_path=base.name_or_path,
        base_hash=base_hash,
        prompt_gate=gate,
        trainable=trainable,
        builder=builder,
        records=records,
        dataset=dataset,
        collator=collator,
        held_out=held_out,
    )


def training_records(settings: Settings) -> RecordSet:
    """The records to train on; raises RecordError when none is about grounding."""
    data = settings.data
    return grounded(data, data.split, data.limit, "train", "choose tasks that ask for boxes, or make more data")


def held_out_records(settings: Settings) -> RecordSet:
    """The records to measure on during training, of the kinds and tasks that are trained.

    Raises:
        RecordError: there is no such split, or none of its records is about grounding.
    """
    data = settings.data
    fix = "name another split with data.held_out=..., or trainer.evaluate_every=0"
    return grounded(data, data.held_out, settings.trainer.evaluate_records, "measure", fix)


def grounded(data: DataSettings, split: str, limit: int | None, what_for: str, fix: str) -> RecordSet:
    """Records of a split, of the kinds and tasks that are trained; raises RecordError when none is about grounding."""
    records = load_records(data.folder, split, kinds=data.kinds, tasks=data.tasks, limit=limit)
    if "grounding" not in records.column("kind"):
        raise RecordError(
            f"no grounding record among the {len(records)} to {what_for} on",
            why=f"split {split!r} of {data.folder}, kinds {data.kinds}, tasks {data.tasks or 'all'}",
            fix=fix,
        )
    return records


def gate_records(settings: Settings) -> tuple[RecordSet, RecordSet | None]:
    """The records whose questions fit and test the prompt gate: of every kind and task, whatever is trained on."""
    data = settings.data
    held_out = load_records(data.folder, data.held_out) if data.held_out in splits_in(Path(data.folder)) else None
    return load_records(data.folder, data.prompts or data.split), held_out
