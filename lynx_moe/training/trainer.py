"""The Hugging Face Trainer, told our loss, our schedule and our way of saving."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from accelerate.utils import gather_object
from torch import nn
from transformers import Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from lynx_moe.adapter import follow_loss_scale
from lynx_moe.training.blocks import BlockFile, BlockTelemetry, over_all, scalars
from lynx_moe.training.callbacks import DeadParameters, Progress, StopInTime
from lynx_moe.training.checkpoints import keep_newest, save_whole
from lynx_moe.training.evaluating import HeldOut
from lynx_moe.training.finite import NumberWatch
from lynx_moe.training.heads import head_state, load_heads, save_heads
from lynx_moe.training.loss import AnswerLoss, real_tokens
from lynx_moe.training.method import adapter_state, is_gated, open_gate
from lynx_moe.training.prefix_cache import PrefixCache
from lynx_moe.training.resuming import ExactResume
from lynx_moe.training.schedule import BudgetedCosine, TimeBudget
from lynx_moe.training.sharding import Sharding, refuse_if_not_in_use
from lynx_moe.training.state import State

# Of the Trainer's own, times of one process: what a run took in all is `TimeBudget.elapsed`.
CLOCKED = ("train_runtime", "train_samples_per_second", "train_steps_per_second")


class LynxTrainer(ExactResume, Trainer):
    """Trains an adapter on grounding answers while holding understanding answers where the base has them.

    All rows run with the gate on: a shut gate would leave nothing to learn from.

    Args:
        model: a PEFT model with a LynX adapter, or a baseline.
        retention_kl, box_weight, step_weights, answer_weight: see `AnswerLoss`.
        warmup: share of the run over which the learning rate rises.
        budget: seconds that training may take.
        progress: show a progress bar.
        prefix: the frozen-prefix cache; its dataset and collator must be those of `rest`.
        keep_best: keep the checkpoint of the lowest held-out loss, whatever its age.
        about: what the manifest of a checkpoint says of the run.
        blocks_file: where a row of what every block does goes at each log; None for nowhere.
        eval_collator: makes batches of `eval_dataset`; None for that of training.
        sharding: what is divided among the processes, and by what; `args` have to say the same.
        rest: as for `transformers.Trainer`. Batches are those of `AnswerLoss`.
    """

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments,
        *,
        retention_kl: float = 0.0,
        box_weight: float = 1.0,
        step_weights: Sequence[float] = (),
        answer_weight: float = 1.0,
        warmup: float = 0.0,
        budget: TimeBudget | None = None,
        progress: bool = True,
        prefix: PrefixCache | None = None,
        keep_best: bool = True,
        about: dict | None = None,
        blocks_file: Path | None = None,
        eval_collator: Callable | None = None,
        sharding: Sharding | None = None,
        **rest,
    ):
        self.sharding = sharding or Sharding()
        # One process, one device: torch's DataParallel would run replicas whose gates nobody set. Use torchrun.
        args._n_gpu = min(1, args.n_gpu)
        super().__init__(model=model, args=args, **rest)
        self.loss_is_scaled_for_ga = True
        self.prefix = prefix
        self.answer_loss = AnswerLoss(
            model,
            retention_kl=retention_kl,
            box_weight=box_weight,
            step_weights=step_weights,
            answer_weight=answer_weight,
            prefix=prefix,
            jointly=self.sharding.divides_weights,
        )
        self.warmup = warmup
        self.budget = budget or TimeBudget()
        self.keep_best = keep_best
        self.about = about or {}
        self.eval_collator = eval_collator or self.data_collator
        self.dead_parameters = DeadParameters()
        self.left_out: set[int] = set()
        self._numbers = NumberWatch(self.accelerator, self._name_of)
        self._blocks = BlockTelemetry()
        self._blocks_file = BlockFile(blocks_file) if blocks_file else None
        self._clock: float | None = None
        self._passed_by: list[torch.Tensor] = []
        self._sums: dict[str, torch.Tensor] = {}
        self._save_into: Path | None = None
        for default in (ProgressCallback, PrinterCallback):
            self.remove_callback(default)
        self.add_callback(StopInTime(self.budget))
        self.add_callback(self.dead_parameters)
        if progress:
            self.add_callback(Progress())

    # ---- the engine ----

    def _prepare_for_training(self, max_steps, train_dataloader, resume_from_checkpoint):
        """Divides and wraps the model as `sharding` says.

        Raises:
            ConfigError: it turned out undivided.
        """
        if self.sharding.kind == "fsdp2":
            from lynx_moe.training.fsdp import shard

            shard(self.model)
        # The Trainer's words for "it divides itself and reduces its own gradients": no DDP around it.
        self.is_distributed_loading_by_transformers = self.sharding.kind == "fsdp2"
        prepared = super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        self.is_distributed_loading_by_transformers = False
        refuse_if_not_in_use(self.sharding, self.model_wrapped)
        return prepared

    def autocast_smart_context_manager(self, cache_enabled: bool | None = True) -> AbstractContextManager:
        """What the whole loss is computed in: DeepSpeed's own autocast covers only calls of its engine, and the base is
        asked past it. Without DeepSpeed accelerate does this.
        """
        if self.sharding.is_deepspeed and self.sharding.deepspeed["torch_autocast"]["enabled"]:
            return torch.autocast(self.args.device.type, torch.bfloat16)
        return nullcontext()

    def _move_model_to_device(self, model, device):
        if self.sharding.kind != "fsdp2":  # too large for one device, perhaps; it moves layer by layer
            super()._move_model_to_device(model, device)

    # ---- the loss ----

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> torch.Tensor | None:
        """(K,) what `AnswerLoss.counts` counts, of a whole step: over micro-batches and devices."""
        if not batch_samples:
            return None
        return self.accelerator.reduce(sum(self.answer_loss.counts(b) for b in batch_samples).to(device), "sum")

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        # Around the backward too: activation checkpointing runs blocks again there, and they must gate the same way.
        if self._clock is None:
            self._clock = time.monotonic()
        with open_gate(self.model), self.prefix.step() if self.prefix else nullcontext():
            if is_gated(self.model):
                follow_loss_scale(self)
            return super().training_step(model, inputs, num_items_in_batch)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        if self.prefix is not None:
            inputs = self.prefix.replay(inputs)
        counts = self.answer_loss.counts(inputs) if num_items_in_batch is None else num_items_in_batch
        parts = self.answer_loss(model, inputs, counts, self.accelerator.num_processes)
        if model.training:
            self._numbers.see(self.state.global_step + 1, parts.blocks, {"loss": parts.loss, **parts.terms}, inputs)
            self._blocks.add(parts.blocks)
            self._note("tokens", real_tokens(inputs))
            self._passed_by += [inputs["left_out"]] if "left_out" in inputs else []
        self._note_penalties(parts.blocks)
        for name, value in parts.terms.items():
            self._note(name, value)
        return (parts.loss, parts.outputs) if return_outputs else parts.loss

    # ---- numbers that are none ----

    def _name_of(self, row: int) -> str:
        records = getattr(self.train_dataset, "records", None)
        return f"row {row}" if records is None else repr(records.column("id", [row])[0])

    def _clip_grad_norm(self, model):
        self._see_gradients()
        return super()._clip_grad_norm(model)

    def _get_grad_norm(self, model, grad_norm=None):
        if grad_norm is None:
            self._see_gradients()
        norm = super()._get_grad_norm(model, grad_norm)
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        if not self._scaled and self._numbers.see_norm(norm):
            self._numbers.refuse()
        return norm

    @property
    def _scaled(self) -> bool:
        """Whether an fp16 scaler is at work, to whom an infinite gradient is only the sign to scale less."""
        scaler = getattr(self.accelerator, "scaler", None)
        return scaler is not None and scaler.is_enabled()

    def _see_gradients(self) -> None:
        if not self._scaled:
            self._numbers.see_gradients(self.model)

    # ---- what is logged ----

    def _note(self, name: str, value: torch.Tensor) -> None:
        # Summed on the device; reading a number every step would wait for it every step.
        if self.model.training:
            self._sums[name] = self._sums.get(name, 0) + value.detach()

    def _note_penalties(self, blocks: dict[str, dict[str, torch.Tensor]]) -> None:
        """Unweighted penalties, means over all blocks, one share per micro-batch."""
        for name in (n for n in ("sparsity", "balance", "router_z") if n in next(iter(blocks.values()), {})):
            values = torch.stack([block[name].float() for block in blocks.values()])
            self._note(name, values.mean() / getattr(self, "current_gradient_accumulation_steps", 1))

    def _since_the_last_log(self) -> dict[str, float]:
        """Means per step of what was noted, over all processes, and real tokens per second."""
        steps = max(1, self.state.global_step - getattr(self, "_noted_at", self._initial_global_step))
        now = time.monotonic()
        names = sorted(self._sums)
        if self.accelerator.num_processes > 1:
            # A term is noted only where its rows are: processes must add up the same ones.
            names = sorted(set(gather_object(names)))
        zero = torch.zeros((), device=self.args.device)
        sums = torch.stack([torch.as_tensor(self._sums.get(name, zero), dtype=torch.float32) for name in names])
        found = dict(zip(names, self.accelerator.reduce(sums, "mean").tolist(), strict=True))
        tokens = found.pop("tokens", 0.0) * self.accelerator.num_processes
        means = {name: total / steps for name, total in found.items()}
        if tokens and self._clock is not None:
            means["tokens_per_second"] = tokens / max(now - self._clock, 1e-9)
        self._sums, self._noted_at, self._clock = {}, self.state.global_step, now
        return means

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the loss's terms and the penalties (means per step since the last log), tokens per second and what the
        blocks did; each block's own numbers go to the reporters and to `blocks_file`.

        Raises:
            DivergedError: something was not finite since the start; numbers are read here anyway.
        """
        self._numbers.refuse(self.model)
        blocks = {}
        if "loss" in logs:
            blocks = self._blocks.read(lambda sums: self.accelerator.reduce(sums, "sum"))
            logs = {**logs, **self._since_the_last_log(), **over_all(blocks)}
            if self.dead_parameters.names:
                logs["dead_parameters"] = len(self.dead_parameters.names)
        self.left_out |= {row for rows in self._passed_by for row in rows.tolist()}
        self._passed_by = []
        super().log({name: value for name, value in logs.items() if name not in CLOCKED}, start_time)
        if blocks:
            # Not by `super().log`: the history in every checkpoint would grow by hundreds of numbers a row.
            self.control = self.callback_handler.on_log(self.args, self.state, self.control, scalars(blocks))
            if self._blocks_file and self.is_world_process_zero():
                self._blocks_file.write(self.state.global_step, blocks, since=self._began_at)

    def progress(self) -> State:
        tensors, plain = super().progress()
        kept = tensors | {f"sum/{name}": total for name, total in self._sums.items()}
        kept |= {f"block/{name}": total for name, total in self._blocks.sums.items()}
        left_out = self.left_out | {row for rows in self._passed_by for row in rows.tolist()}
        plain |= {"blocks": list(self._blocks.sums)}  # files give tensors back in another order
        plain |= {"noted_at": getattr(self, "_noted_at", self._initial_global_step), "left_out": sorted(left_out)}
        return kept, plain | {"dead_parameters": self.dead_parameters.state()}

    def set_progress(self, state: State) -> None:
        super().set_progress(state)
        tensors, plain = state
        self._sums, self._blocks.sums = (
            {n.removeprefix(kind): v.to(self.args.device) for n, v in tensors.items() if n.startswith(kind)}
            for kind in ("sum/", "block/")
        )
        self._blocks.sums = {name: self._blocks.sums[name] for name in plain["blocks"]}
        self._noted_at = plain["noted_at"]
        self.left_out = set(plain["left_out"])
        self.dead_parameters.set_state(plain["dead_parameters"])

    @property
    def _began_at(self) -> int:
        """The step that this program went on from; 0 for a run from its start."""
        return int(self.resumed_from.name.rpartition("-")[2]) if self.resumed_from else 0

    # ---- held-out records ----

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """The loss on `eval_dataset`, logged: see `HeldOut.measure`. Training goes on as if it had not been called."""
        held_out = HeldOut(eval_dataset or self.eval_dataset, self.eval_collator, self.args.per_device_eval_batch_size)
        with self.autocast_smart_context_manager():
            metrics = held_out.measure(self.model, self.answer_loss, self.accelerator)
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def best(self) -> dict | None:
        """The row of the log with the lowest "eval_loss", with its "step"; None when nothing was measured."""
        rows = [row for row in self.state.log_history if math.isfinite(row.get("eval_loss", math.nan))]
        return min(rows, key=lambda row: row["eval_loss"], default=None)

    def best_checkpoint(self) -> Path | None:
        best = self.best() if self.keep_best else None
        return best and Path(self.args.output_dir, f"checkpoint-{best['step']}")

    def _determine_best_metric(self, metrics: dict[str, float], trial) -> bool:
        best = self.best()
        is_best = best is not None and best["step"] == self.state.global_step
        # Saved now: at the next regular checkpoint the best step would be gone.
        self.control.should_save |= is_best and self.keep_best
        return is_best

    # ---- the schedule ----

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None):
        """Warm-up and cosine by the further of steps and seconds."""
        if self.lr_scheduler is None:
            self.lr_scheduler = BudgetedCosine(
                optimizer or self.optimizer, total_steps=num_training_steps, warmup=self.warmup, budget=self.budget
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def nothing_left(self) -> bool:
        return super().nothing_left() or (self.resumed_from is not None and self.budget.spent)

    # ---- saving ----

    def _get_output_dir(self, trial) -> str:
        return str(self._save_into) if self._save_into else super()._get_output_dir(trial)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Writes the adapter, and heads in a file of their own: the Trainer would add a pickle of its arguments; ours
        are in the card.
        """
        state, heads = adapter_state(self.model), head_state(self.model)  # by every process
        if self.args.should_save:
            folder = output_dir or self.args.output_dir
            self.model.save_pretrained(folder, state_dict=state, save_embedding_layers=False)
            save_heads(self.model, Path(folder), heads)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        load_heads(self.model, Path(resume_from_checkpoint))

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self.sharding.kind != "fsdp2":
            return super()._save_optimizer_and_scheduler(output_dir)
        from lynx_moe.training.fsdp import save_optimizer

        save_optimizer(self.model, self.optimizer.optimizer, self.lr_scheduler.state_dict(), Path(output_dir))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if self.sharding.kind != "fsdp2" or checkpoint is None:
            return super()._load_optimizer_and_scheduler(checkpoint)
        from lynx_moe.training.fsdp import load_optimizer

        self.lr_scheduler.load_state_dict(load_optimizer(self.model, self.optimizer.optimizer, Path(checkpoint)))

    def load_adapter(self, checkpoint: Path) -> None:
        """The weights of a checkpoint instead of the model's."""
        self._load_from_checkpoint(str(checkpoint))

    def _save_checkpoint(self, model, trial) -> None:
        """Writes the checkpoint aside and gives it its name when it is whole; the earlier ones stay until then.

        Raises:
            CheckpointError: writing failed, for example because the disk is full.
            DivergedError: something is not finite, so there is nothing worth saving; the checkpoints before stay.
        """
        self._numbers.refuse(self.model)
        folder = Path(self.args.output_dir)

        def write(temporary: Path) -> None:
            self._save_into = temporary
            try:
                super(LynxTrainer, self)._save_checkpoint(model, trial)
            finally:
                self._save_into = None

        save_whole(folder / f"checkpoint-{self.state.global_step}", write, self.accelerator, self.about)
        if self.accelerator.is_main_process:
            keep_newest(folder, self.args.save_total_limit, self.best_checkpoint())
