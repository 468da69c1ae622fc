"""One training run, from settings to a folder: base and data in, `adapter/` and the card `run.json` out."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict

from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from tqdm.auto import tqdm
from transformers import set_seed

from lynx_moe.errors import CheckpointError, LynxError
from lynx_moe.training.arguments import training_arguments
from lynx_moe.training.blocks import read_rows
from lynx_moe.training.card import describe_data, describe_left_out, last_logged, log_line, look_at, versions
from lynx_moe.training.checkpoints import read_manifest, refuse_torn
from lynx_moe.training.folder import RunFolder
from lynx_moe.training.hashing import BaseHash, hash_base
from lynx_moe.training.heads import head_state, save_heads
from lynx_moe.training.heat_map import draw_heat_map
from lynx_moe.training.made_for import made_for, refuse_another
from lynx_moe.training.measuring import asked_records, measure
from lynx_moe.training.method import adapter_parts, adapter_state
from lynx_moe.training.prefix_cache import PrefixCache
from lynx_moe.training.preparing import prepare
from lynx_moe.training.processes import process_group, refuse_mixed_pictures, refuse_too_few_records
from lynx_moe.training.records import make_missing
from lynx_moe.training.reporting import check_reporters, end_reporters, reporters
from lynx_moe.training.schedule import TimeBudget
from lynx_moe.training.settings import Settings
from lynx_moe.training.sharding import Sharding, divided_loading, plan_sharding, refuse_foreign_checkpoint
from lynx_moe.training.telemetry import gate_telemetry
from lynx_moe.training.trainer import LynxTrainer
from lynx_moe.whole import saving, whole_folder, write_json


def run(settings: Settings) -> dict:
    """Trains an adapter as `settings` say; writes `adapter/`, `log.jsonl` and, last, `run.json` into the run's folder.

    The same settings again after an interruption go on from the newest whole checkpoint, to the same bits.

    Returns:
        What the card holds: "train" (metrics), "base_hash_unchanged" (always True: the run fails otherwise), "base"
        (sha256 per tensor), "prompt_gate", "gates", "dead_parameters", "data", "settings", "versions"; and
        "evaluation" where `settings.evaluation` asks for it.

    Raises:
        OutputExistsError: the folder holds a run already, and nothing says what to do with it.
        InUseError: another process is training into the folder.
        ConfigError: a setting that nothing can honour, or a reporter that is not installed.
        RecordError: no usable records, or fewer than `data.max_left_out` asks for.
        FamilyError: no block in this base to wrap.
        DivergedError: a loss, a gradient, a router's scores or a weight stopped being finite numbers.
        CheckpointError: saving failed, the base was changed, or what there is to go on from was made for another base,
            adapter or data. Nothing is published then.
    """
    check_reporters(settings.trainer.report_to)
    sharding = plan_sharding(settings)
    folder = RunFolder(settings.output_dir)
    with process_group(sharding) as here, folder.owned() if here.is_main_process else nullcontext():
        try:
            return _run(settings, sharding, folder, here)
        finally:
            end_reporters(settings.trainer.report_to)


def _run(settings: Settings, sharding: Sharding, folder: RunFolder, here: PartialState) -> dict:
    last = problem = None
    with here.main_process_first():
        if here.is_main_process:
            try:
                folder.claim(settings, here.num_processes)
                make_missing(settings.data)
                last = folder.go_on_from()
            except LynxError as trouble:
                problem = trouble  # for all processes: the others would wait for this one, or go on without it
    last, problem = broadcast_object_list([last, problem])
    if problem is not None:
        raise problem
    set_seed(settings.seed)
    # Now, because a split that is not there must not be found out after hours of training.
    asked = asked_records(settings)

    before = read_manifest(last) if last else {}
    # DeepSpeed's checkpoints hold nothing that is frozen, so there the prompt gate's head is fitted again, to the same.
    fitted = None if sharding.is_deepspeed else before.get("prompt_gate")
    with divided_loading(sharding, settings.model):
        prepared = prepare(settings, quiet=not here.is_main_process, prompt_gate=fitted)
    model = prepared.model
    about = {
        "made_for": made_for(prepared.base_hash.digest, settings.data, model),
        "prompt_gate": prepared.prompt_gate,
    }
    if last:
        refuse_another(before["made_for"], about["made_for"], last)
        refuse_foreign_checkpoint(sharding, last, here.num_processes)
    for rows in [prepared.dataset] if prepared.held_out is None else [prepared.dataset, prepared.held_out]:
        rows.left_out.refuse(settings.data.max_left_out)
        refuse_mixed_pictures(sharding, rows.records)
    refuse_too_few_records(prepared.dataset, settings.trainer, here.num_processes)
    prefix = PrefixCache(prepared, settings) if settings.trainer.prefix_cache != "off" else None
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
        keep_best=settings.trainer.keep_best,
        about=about,
        blocks_file=folder.blocks,
        callbacks=reporters(settings.trainer.report_to, folder),
        prefix=prefix,
        train_dataset=prefix.dataset if prefix else prepared.dataset,
        data_collator=prefix.collator if prefix else prepared.collator,
        eval_dataset=prepared.held_out,
        eval_collator=prepared.collator,
    )
    if settings.trainer.checkpointing == "reentrant":
        # The first block's input is a frozen embedding: without this, reentrant checkpointing cuts the graph there.
        model.enable_input_require_grads()
    done = trainer.train(resume_from_checkpoint=str(last) if last else None)
    best = trainer.best()
    if settings.trainer.publish == "best":
        take_best(trainer)

    if prefix:
        prefix.boundary.remove()
    after = hash_base(model.get_base_model(), adapter_parts(model))
    refuse_changed_base(prepared.base_hash, after)
    adapter, heads = adapter_state(model), head_state(model)
    card = {
        "train": {
            "steps": done.global_step,
            "loss": done.training_loss,
            **last_logged(trainer.state.log_history),
            "best_step": best and best["step"],
            "best_eval_loss": best and best["eval_loss"],
            "published_step": best["step"] if settings.trainer.publish == "best" else done.global_step,
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
            **describe_left_out(prepared.dataset, trainer.left_out),
        },
        "prefix_cache": prefix.report() if prefix else None,
        "sharding": {"kind": sharding.kind, "processes": here.num_processes},
        "settings": asdict(settings),
        "versions": versions(),
    }
    if here.is_main_process:
        with whole_folder(folder.adapter) as aside:
            model.save_pretrained(str(aside), state_dict=adapter, save_embedding_layers=False)
            save_heads(model, aside, heads)
    if asked is not None:
        plain = trainer.accelerator.unwrap_model(trainer.model_wrapped, keep_fp32_wrapper=False)
        card["evaluation"], answers = measure(settings, prepared, plain, asked)
    if here.is_main_process:
        folder.tidy()
        if asked is not None:
            write_json(folder.evaluation, answers)
        write_json(folder.log, "".join(f"{log_line(row)}\n" for row in trainer.state.log_history))
        with saving(folder.heat_map):
            missing = draw_heat_map(read_rows(folder.blocks), folder.heat_map)
        if missing:
            tqdm.write(f"note: no {folder.heat_map.name}: {missing}")
        # Last: who sees the card sees a finished run.
        write_json(folder.card, card)
    here.wait_for_everyone()
    return card


def take_best(trainer: LynxTrainer) -> None:
    """Gives the model the adapter of the step with the lowest held-out loss."""
    checkpoint = trainer.best_checkpoint()
    if checkpoint is None:
        raise CheckpointError(
            "no step is the best",
            why="no held-out loss was a finite number",
            fix="lower trainer.learning_rate and start again with overwrite=true",
        )
    refuse_torn(checkpoint)
    trainer.load_adapter(checkpoint)


def refuse_changed_base(before: BaseHash, after: BaseHash) -> None:
    changed = before.changed(after)
    if changed:
        raise CheckpointError(
            f"training changed {len(changed)} tensors of the base, the first is {changed[0]}",
            why="the base must stay byte for byte what it was; something beside the adapter wrote to it",
            fix="nothing was published; report it with this run's settings",
        )
