"""One training run, from settings to a folder: base and data in, `adapter/` and the card `run.json` out."""

from __future__ import annotations

import json
from dataclasses import asdict

from accelerate import PartialState
from tqdm.auto import tqdm
from transformers import set_seed

from lynx_moe.errors import CheckpointError
from lynx_moe.training.arguments import training_arguments
from lynx_moe.training.blocks import read_rows
from lynx_moe.training.card import describe_data, describe_left_out, last_logged, look_at, versions
from lynx_moe.training.folder import RunFolder
from lynx_moe.training.hashing import BaseHash, hash_base
from lynx_moe.training.heat_map import draw_heat_map
from lynx_moe.training.measuring import asked_records, measure
from lynx_moe.training.method import adapter_parts
from lynx_moe.training.prefix_cache import PrefixCache
from lynx_moe.training.preparing import prepare
from lynx_moe.training.records import make_missing
from lynx_moe.training.reporting import check_reporters, reporters
from lynx_moe.training.schedule import TimeBudget
from lynx_moe.training.settings import Settings
from lynx_moe.training.telemetry import gate_telemetry
from lynx_moe.training.trainer import LynxTrainer
from lynx_moe.training.whole import saving, whole_folder, write_json


def run(settings: Settings) -> dict:
    """Trains an adapter as `settings` say; writes `adapter/`, `log.jsonl` and, last, `run.json` into the run's folder.

    Returns:
        What the card holds: "train" (metrics), "base_hash_unchanged" (always True: the run fails otherwise), "base"
        (sha256 per tensor), "prompt_gate", "gates", "dead_parameters", "data", "settings", "versions"; and
        "evaluation" where `settings.evaluation` asks for it.

    Raises:
        OutputExistsError: the folder holds a run already, and nothing says what to do with it.
        ConfigError: a setting that nothing can honour, or a reporter that is not installed.
        RecordError: no usable records, or fewer than `data.max_left_out` asks for.
        FamilyError: no block in this base to wrap.
        DivergedError: a loss, a gradient, a router's scores or a weight stopped being finite numbers.
        CheckpointError: saving failed, training diverged, or the base was changed. Nothing is published then.
    """
    here = PartialState()
    check_reporters(settings.trainer.report_to)
    folder = RunFolder(settings.output_dir)
    with here.main_process_first():
        if here.is_main_process:
            folder.claim(resume=settings.trainer.resume, overwrite=settings.overwrite)
            make_missing(settings.data)
    set_seed(settings.seed)
    # Now, because a split that is not there must not be found out after hours of training.
    asked = asked_records(settings)

    prepared = prepare(settings, quiet=not here.is_main_process)
    model = prepared.model
    prepared.dataset.left_out.refuse(settings.data.max_left_out)
    prefix = PrefixCache(prepared, settings) if settings.trainer.prefix_cache != "off" else None
    budget = TimeBudget(settings.trainer.max_seconds)
    trainer = LynxTrainer(
        model,
        training_arguments(settings, folder),
        retention_kl=settings.objective.retention_kl,
        box_weight=settings.objective.box_weight,
        step_weights=settings.objective.step_weights,
        answer_weight=settings.objective.answer_weight,
        warmup=settings.trainer.warmup,
        budget=budget,
        progress=settings.trainer.progress,
        blocks_file=folder.blocks,
        callbacks=reporters(settings.trainer.report_to, folder),
        prefix=prefix,
        train_dataset=prefix.dataset if prefix else prepared.dataset,
        data_collator=prefix.collator if prefix else prepared.collator,
    )
    if settings.trainer.checkpointing == "reentrant":
        # The first block's input is a frozen embedding: without this, reentrant checkpointing cuts the graph there.
        model.enable_input_require_grads()
    last = folder.last_checkpoint() if settings.trainer.resume else None
    done = trainer.train(resume_from_checkpoint=str(last) if last else None)

    if prefix:
        prefix.boundary.remove()
    after = hash_base(model.get_base_model(), adapter_parts(model))
    refuse_changed_base(prepared.base_hash, after)
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
        "gates": gate_telemetry(model, look_at(prepared)),
        "dead_parameters": trainer.dead_parameters.names,
        "data": {
            **describe_data(settings),
            "records": dict(prepared.records.counts()),
            **describe_left_out(prepared.dataset, trainer.left_out),
        },
        "prefix_cache": prefix.report() if prefix else None,
        "settings": asdict(settings),
        "versions": versions(),
    }
    if here.is_main_process:
        with whole_folder(folder.adapter) as aside:
            model.save_pretrained(str(aside), save_embedding_layers=False)
    if asked is not None:
        plain = trainer.accelerator.unwrap_model(trainer.model_wrapped, keep_fp32_wrapper=False)
        card["evaluation"], answers = measure(settings, prepared, plain, asked)
    if here.is_main_process:
        folder.tidy()
        if asked is not None:
            write_json(folder.evaluation, answers)
        write_json(folder.log, "".join(json.dumps(row) + "\n" for row in trainer.state.log_history))
        with saving(folder.heat_map):
            missing = draw_heat_map(read_rows(folder.blocks), folder.heat_map)
        if missing:
            tqdm.write(f"note: no {folder.heat_map.name}: {missing}")
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
