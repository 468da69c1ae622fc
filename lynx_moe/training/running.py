"""One training run, from settings to a folder: base and data in, `adapter/` and the card `run.json` out."""

from __future__ import annotations

import json
from dataclasses import asdict

import torch
from accelerate import PartialState
from transformers import set_seed

from lynx_moe.errors import CheckpointError
from lynx_moe.training.arguments import training_arguments
from lynx_moe.training.card import describe_data, last_logged, look_at, versions
from lynx_moe.training.folder import RunFolder
from lynx_moe.training.hashing import BaseHash, hash_base
from lynx_moe.training.method import adapter_parts, adapter_state
from lynx_moe.training.preparing import prepare
from lynx_moe.training.processes import process_group, refuse_mixed_pictures, refuse_too_few_records
from lynx_moe.training.records import make_missing
from lynx_moe.training.schedule import TimeBudget
from lynx_moe.training.settings import Settings
from lynx_moe.training.sharding import Sharding, divided_loading, plan_sharding, refuse_foreign_checkpoint
from lynx_moe.training.telemetry import gate_telemetry
from lynx_moe.training.trainer import LynxTrainer
from lynx_moe.training.whole import whole_folder, write_json


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
    sharding = plan_sharding(settings)
    with process_group(sharding) as here:
        return train(settings, sharding, here)


def train(settings: Settings, sharding: Sharding, here: PartialState) -> dict:
    """`run` within the group of its processes."""
    folder = RunFolder(settings.output_dir)
    with here.main_process_first():
        if here.is_main_process:
            folder.claim(resume=settings.trainer.resume, overwrite=settings.overwrite)
            make_missing(settings.data)
    set_seed(settings.seed)

    with divided_loading(sharding, settings.model):
        prepared = prepare(settings, quiet=not here.is_main_process)
    model = prepared.model
    refuse_mixed_pictures(sharding, prepared.records)
    refuse_too_few_records(prepared.dataset, settings.trainer, here.num_processes)
    budget = TimeBudget(settings.trainer.max_seconds)
    trainer = LynxTrainer(
        model,
        training_arguments(settings, folder, sharding),
        sharding=sharding,
        retention_kl=settings.objective.retention_kl,
        box_weight=settings.objective.box_weight,
        step_weights=settings.objective.step_weights,
        answer_weight=settings.objective.answer_weight,
        warmup=settings.trainer.warmup,
        budget=budget,
        progress=settings.trainer.progress,
        train_dataset=prepared.dataset,
        data_collator=prepared.collator,
    )
    if settings.trainer.checkpointing == "reentrant":
        # The first block's input is a frozen embedding: without this, reentrant checkpointing cuts the graph there.
        model.enable_input_require_grads()
    last = folder.last_checkpoint() if settings.trainer.resume else None
    if last:
        refuse_foreign_checkpoint(sharding, last, here.num_processes)
    done = trainer.train(resume_from_checkpoint=str(last) if last else None)

    after = hash_base(model.get_base_model(), adapter_parts(model))
    refuse_changed_base(prepared.base_hash, after)
    adapter = adapter_state(model)
    refuse_broken_adapter(adapter)
    card = {
        "train": {
            "steps": done.global_step,
            "loss": done.training_loss,
            **last_logged(trainer.state.log_history),
            "seconds": budget.elapsed,
            "stopped_by_time": budget.spent and done.global_step < trainer.state.max_steps,
            "resumed_from": last.name if last else None,
            "trainable_parameters": prepared.trainable,
        },
        "base_hash_unchanged": prepared.base_hash.digest == after.digest,
        "base": {
            "path": prepared.base_path,
            "sha256_before": prepared.base_hash.digest,
            "sha256_after": after.digest,
            "tensors": after.tensors,
        },
        "prompt_gate": prepared.prompt_gate,
        "gates": gate_telemetry(model, look_at(prepared, trainer.args.device)),
        "dead_parameters": trainer.dead_parameters.names,
        "data": {
            **describe_data(settings),
            "records": dict(prepared.records.counts()),
            "left_out": prepared.dataset.dropped,
        },
        "sharding": {"kind": sharding.kind, "processes": here.num_processes},
        "settings": asdict(settings),
        "versions": versions(),
    }
    if here.is_main_process:
        with whole_folder(folder.adapter) as aside:
            model.save_pretrained(str(aside), state_dict=adapter, save_embedding_layers=False)
        folder.tidy()
        write_json(folder.log, "".join(json.dumps(row) + "\n" for row in trainer.state.log_history))
        # Last: who sees the card sees a finished run.
        write_json(folder.card, card)
    here.wait_for_everyone()
    return card


def refuse_changed_base(before: BaseHash, after: BaseHash) -> None:
    changed = before.changed(after)
    if changed:
        raise CheckpointError(
            f"training changed {len(changed)} tensors of the base, the first is {changed[0]}",
            why="the base must stay byte for byte what it was; something beside the adapter wrote to it",
            fix="nothing was published; report it with this run's settings",
        )


def refuse_broken_adapter(adapter: dict[str, torch.Tensor]) -> None:
    broken = [name for name, tensor in adapter.items() if not tensor.isfinite().all()]
    if broken:
        raise CheckpointError(
            f"{len(broken)} of the adapter's tensors hold infinite or undefined numbers, the first is {broken[0]}",
            why="training diverged; nothing was published",
            fix="lower trainer.learning_rate, or trainer.resume=true from an earlier checkpoint",
        )
