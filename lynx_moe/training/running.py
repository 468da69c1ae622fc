"""One training run, from settings to a folder: base and data in, `adapter/` and the card `run.json` out."""

from __future__ import annotations

import hashlib
import json
import platform
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from accelerate import PartialState
from torch import nn
from tqdm.auto import tqdm
from transformers import TrainingArguments, set_seed

import lynx_moe
from lynx_moe.adapter import LynxConfig
from lynx_moe.adapter.attaching import attach_adapter
from lynx_moe.data import Collator, PackedDataset, RecordSet, SampleBuilder, SampleDataset, load_records
from lynx_moe.data.packing import check_packable
from lynx_moe.errors import CheckpointError, RecordError
from lynx_moe.families.dialects import get_dialect
from lynx_moe.training.base import choose_precision, load_base, only_adapter_trains
from lynx_moe.training.folder import RunFolder
from lynx_moe.training.hashing import BaseHash, hash_base
from lynx_moe.training.memory import keep_freed_memory
from lynx_moe.training.prompt_gate import fit_on_records
from lynx_moe.training.records import make_missing, splits_in
from lynx_moe.training.schedule import TimeBudget
from lynx_moe.training.settings import Settings
from lynx_moe.training.telemetry import gate_telemetry
from lynx_moe.training.trainer import LynxTrainer
from lynx_moe.training.whole import whole_folder, write_json

LOOKED_AT = 64  # records whose gates go into the card


def run(settings: Settings) -> dict:
    """Trains an adapter as `settings` say; writes `adapter/`, `log.jsonl` and, last, `run.json` into the run's folder.

    Returns:
        What the card holds: "train" (metrics), "base_hash_unchanged" (always True: the run fails otherwise), "base"
        (sha256 per tensor), "prompt_gate", "gates", "dead_parameters", "data", "settings", "versions".

    Raises:
        OutputExistsError: the folder holds a run already, and nothing says what to do with it.
        ConfigError: a setting that nothing can honour.
        RecordError: no usable records. FamilyError: no block in this base to wrap.
        DivergedError: a router's scores stopped being finite numbers.
        CheckpointError: saving failed, training diverged, or the base was changed. Nothing is published then.
    """
    here = PartialState()
    folder = RunFolder(settings.output_dir)
    with here.main_process_first():
        if here.is_main_process:
            folder.claim(resume=settings.trainer.resume, overwrite=settings.overwrite)
            make_missing(settings.data)
    set_seed(settings.seed)

    base, processor = load_base(settings.model, settings.quant)
    if base.device.type == "cpu":
        keep_freed_memory()
    before = hash_base(base)
    config = LynxConfig(
        **asdict(settings.adapter), retention_kl=settings.objective.retention_kl, dialect=settings.model.dialect
    )
    model = attach_adapter(base, config)
    # Saved with the adapter, which travels further than the run's card.
    model.peft_config[model.active_adapter].base["sha256"] = before.digest
    prefix = model.base_model.prefix
    trainable = only_adapter_trains(model, prefix)
    if here.is_main_process:
        tqdm.write(f"{trainable:,} parameters train, all of them the adapter's")

    builder = SampleBuilder(
        processor, get_dialect(settings.model.dialect, processor), mark_boxes=settings.objective.box_weight != 1
    )
    records = training_records(settings)
    gate = {"mode": config.prompt_gate, "fitted": False}
    if config.prompt_gate == "auto":
        gate |= fit_on_records(model, builder, *gate_records(settings), seed=settings.seed)
    if settings.data.pack_tokens:
        check_packable(base)
        dataset = PackedDataset(records, builder, max_tokens=settings.data.pack_tokens)
    else:
        dataset = SampleDataset(records, builder)
    collator = Collator(processor)

    budget = TimeBudget(settings.trainer.max_seconds)
    trainer = LynxTrainer(
        model,
        training_arguments(settings, folder),
        retention_kl=settings.objective.retention_kl,
        box_weight=settings.objective.box_weight,
        warmup=settings.trainer.warmup,
        budget=budget,
        progress=settings.trainer.progress,
        train_dataset=dataset,
        data_collator=collator,
    )
    if settings.trainer.checkpointing == "reentrant":
        # The first block's input is a frozen embedding: without this, reentrant checkpointing cuts the graph there.
        model.enable_input_require_grads()
    last = folder.last_checkpoint() if settings.trainer.resume else None
    done = trainer.train(resume_from_checkpoint=str(last) if last else None)

    after = hash_base(model.get_base_model(), prefix)
    refuse_changed_base(before, after)
    refuse_broken_adapter(model)
    card = {
        "train": {
            "steps": done.global_step,
            "loss": done.training_loss,
            **last_logged(trainer.state.log_history),
            "seconds": budget.elapsed,
            "stopped_by_time": budget.spent and done.global_step < trainer.state.max_steps,
            "resumed_from": last.name if last else None,
            "trainable_parameters": trainable,
        },
        "base_hash_unchanged": before.digest == after.digest,
        "base": {
            "path": base.name_or_path,
            "sha256_before": before.digest,
            "sha256_after": after.digest,
            "tensors": after.tensors,
        },
        "prompt_gate": gate,
        "gates": gate_telemetry(model, look_at(records, builder, collator, model)),
        "dead_parameters": trainer.dead_parameters.names,
        "data": {**describe_data(settings), "records": dict(records.counts()), "left_out": dataset.dropped},
        "settings": asdict(settings),
        "versions": versions(),
    }
    if here.is_main_process:
        with whole_folder(folder.adapter) as aside:
            model.save_pretrained(str(aside), save_embedding_layers=False)
        folder.tidy()
        write_json(folder.log, "".join(json.dumps(row) + "\n" for row in trainer.state.log_history))
        # Last: who sees the card sees a finished run.
        write_json(folder.card, card)
    here.wait_for_everyone()
    return card


def training_records(settings: Settings) -> RecordSet:
    """The records to train on; raises RecordError when none is about grounding."""
    data = settings.data
    records = load_records(data.folder, data.split, kinds=data.kinds, tasks=data.tasks, limit=data.limit)
    if "grounding" not in records.column("kind"):
        raise RecordError(
            f"no grounding record among the {len(records)} to train on",
            why=f"split {data.split!r} of {data.folder}, kinds {data.kinds}, tasks {data.tasks or 'all'}",
            fix="choose tasks that ask for boxes, or make more data",
        )
    return records


def gate_records(settings: Settings) -> tuple[RecordSet, RecordSet | None]:
    """The records whose questions fit and test the prompt gate: of every kind and task, whatever is trained on."""
    data = settings.data
    held_out = load_records(data.folder, data.held_out) if data.held_out in splits_in(Path(data.folder)) else None
    return load_records(data.folder, data.prompts or data.split), held_out


def training_arguments(settings: Settings, folder: RunFolder) -> TrainingArguments:
    """Our settings in the words of transformers."""
    chosen = settings.trainer
    cuda = torch.cuda.is_available()
    precision = choose_precision(chosen.precision)
    return TrainingArguments(
        output_dir=str(folder.checkpoints),
        max_steps=chosen.max_steps or -1,
        num_train_epochs=chosen.epochs,
        per_device_train_batch_size=chosen.batch_size,
        gradient_accumulation_steps=chosen.accumulate,
        learning_rate=chosen.learning_rate,
        weight_decay=chosen.weight_decay,
        max_grad_norm=chosen.max_grad_norm,
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        use_cpu=not cuda,
        activation_checkpointing=chosen.checkpointing != "off",
        activation_checkpointing_kwargs={"use_reentrant": chosen.checkpointing == "reentrant"},
        logging_steps=chosen.log_every,
        logging_first_step=True,
        # A loss that is not a number must be seen, not averaged away.
        logging_nan_inf_filter=False,
        save_strategy="steps" if chosen.save_every else "no",
        save_steps=chosen.save_every or 500,
        save_total_limit=chosen.keep,
        seed=settings.seed,
        data_seed=settings.seed,
        dataloader_num_workers=settings.data.workers,
        dataloader_pin_memory=cuda,
        remove_unused_columns=False,
        label_names=["labels"],
        ddp_find_unused_parameters=False,
        disable_tqdm=True,
        report_to=[],
    )


def refuse_changed_base(before: BaseHash, after: BaseHash) -> None:
    changed = before.changed(after)
    if changed:
        raise CheckpointError(
            f"training changed {len(changed)} tensors of the base, the first is {changed[0]}",
            why="the base must stay byte for byte what it was; something beside the adapter wrote to it",
            fix="nothing was published; report it with this run's settings",
        )


def refuse_broken_adapter(model: nn.Module) -> None:
    broken = [name for name, p in model.named_parameters() if p.requires_grad and not p.isfinite().all()]
    if broken:
        raise CheckpointError(
            f"{len(broken)} of the adapter's tensors hold infinite or undefined numbers, the first is {broken[0]}",
            why="training diverged; nothing was published",
            fix="lower trainer.learning_rate, or trainer.resume=true from an earlier checkpoint",
        )


def look_at(records: RecordSet, builder: SampleBuilder, collator: Collator, model: nn.Module) -> list[dict]:
    """Some records, evenly spread over the training set, as batches on the model's device."""
    step = max(1, len(records) // LOOKED_AT)
    samples = list(SampleDataset(records.select(range(0, len(records), step)[:LOOKED_AT]), builder))
    device = next(model.parameters()).device
    batches = [collator(samples[start : start + 8]) for start in range(0, len(samples), 8)]
    return [{name: value.to(device) for name, value in batch.items()} for batch in batches]


def last_logged(history: list[dict]) -> dict[str, float]:
    """The newest value of each thing that was logged on the way, under its own name with `last_` before it."""
    newest = next((row for row in reversed(history) if "loss" in row), {})
    return {f"last_{name}": value for name, value in newest.items() if name not in ("step", "epoch")}


def describe_data(settings: Settings) -> dict:
    manifest = Path(settings.data.folder) / "manifest.json"
    return {"folder": settings.data.folder, "manifest_sha256": hashlib.sha256(manifest.read_bytes()).hexdigest()}


def versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "lynx_moe": lynx_moe.__version__}
    for package in ("torch", "transformers", "peft", "accelerate", "datasets", "bitsandbytes"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            pass
    return found
