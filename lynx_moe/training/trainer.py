"""The Hugging Face Trainer, told our loss, our schedule and our way of saving."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from transformers import Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from lynx_moe.adapter import follow_loss_scale
from lynx_moe.training.callbacks import DeadParameters, Progress, StopInTime
from lynx_moe.training.checkpoints import keep_newest, save_whole
from lynx_moe.training.finite import RouterWatch
from lynx_moe.training.loss import AnswerLoss
from lynx_moe.training.method import adapter_state, is_gated, open_gate
from lynx_moe.training.schedule import BudgetedCosine, TimeBudget
from lynx_moe.training.sharding import Sharding, refuse_if_not_in_use


class LynxTrainer(Trainer):
    """Trains an adapter on grounding answers while holding understanding answers where the base has them.

    All rows run with the gate on: a shut gate would leave nothing to learn from.

    Args:
        model: a PEFT model with a LynX adapter, or a baseline.
        retention_kl, box_weight, step_weights, answer_weight: see `AnswerLoss`.
        warmup: share of the run over which the learning rate rises.
        budget: seconds that training may take.
        progress: show a progress bar.
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
        sharding: Sharding | None = None,
        **rest,
    ):
        self.sharding = sharding or Sharding()
        # One process, one device: torch's DataParallel would run replicas whose gates nobody set. Use torchrun.
        args._n_gpu = min(1, args.n_gpu)
        super().__init__(model=model, args=args, **rest)
        self.loss_is_scaled_for_ga = True
        self.answer_loss = AnswerLoss(
            model,
            retention_kl=retention_kl,
            box_weight=box_weight,
            step_weights=step_weights,
            answer_weight=answer_weight,
            jointly=self.sharding.divides_weights,
        )
        self.warmup = warmup
        self.budget = budget or TimeBudget()
        self.dead_parameters = DeadParameters(model, keeps_gradients=not self.sharding.is_deepspeed)
        self._routers = RouterWatch()
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

    def _move_model_to_device(self, model, device):
        if self.sharding.kind != "fsdp2":  # too large for one device, perhaps; it moves layer by layer
            super()._move_model_to_device(model, device)

    # ---- the loss ----

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> torch.Tensor | None:
        """(2,) answer tokens of a whole step, over micro-batches and devices: [grounding (weighed), understanding]."""
        if not batch_samples:
            return None
        return self.accelerator.reduce(sum(self.answer_loss.counts(b) for b in batch_samples).to(device), "sum")

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        # Around the backward too: activation checkpointing runs blocks again there, and they must gate the same way.
        with open_gate(self.model):
            if is_gated(self.model):
                follow_loss_scale(self)
            return super().training_step(model, inputs, num_items_in_batch)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        counts = self.answer_loss.counts(inputs) if num_items_in_batch is None else num_items_in_batch
        parts = self.answer_loss(model, inputs, counts, self.accelerator.num_processes)
        if model.training:
            self._routers.see(parts.blocks, self.state.global_step + 1)
        self._note_blocks(parts.blocks)
        for name, value in parts.terms.items():
            self._note(name, value)
        return (parts.loss, parts.outputs) if return_outputs else parts.loss

    # ---- what is logged ----

    def _note(self, name: str, value: torch.Tensor) -> None:
        # Summed on the device; reading a number every step would wait for it every step.
        if self.model.training:
            self._sums[name] = self._sums.get(name, 0) + value.detach()

    def _note_blocks(self, blocks: dict[str, dict[str, torch.Tensor]]) -> None:
        """Mean gate and unweighted penalties over all blocks, one share per micro-batch."""
        for name in (n for n in next(iter(blocks.values()), {}) if n != "finite"):
            values = torch.stack([block[name].float() for block in blocks.values()])
            self._note(name, values.mean() / getattr(self, "current_gradient_accumulation_steps", 1))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the loss's terms, the mean gate and the penalties: means per step since the last log.

        Raises:
            DivergedError: a router's scores were not finite since the start; numbers are read here anyway.
        """
        self._routers.refuse()
        if "loss" in logs:
            steps = max(1, self.state.global_step - getattr(self, "_noted_at", self._initial_global_step))
            if self._sums:
                # Of all processes: a term of the loss counts the tokens of all, and each adds its own.
                sums = self.accelerator.reduce(torch.stack([total.float() for total in self._sums.values()]), "mean")
                logs = {**logs, **{name: (s / steps).item() for name, s in zip(self._sums, sums, strict=True)}}
            self._sums = {}
            self._noted_at = self.state.global_step
        super().log(logs, start_time)

    # ---- the schedule ----

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None):
        """Warm-up and cosine by the further of steps and seconds."""
        if self.lr_scheduler is None:
            self.lr_scheduler = BudgetedCosine(
                optimizer or self.optimizer, total_steps=num_training_steps, warmup=self.warmup, budget=self.budget
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler

    # ---- saving ----

    def _get_output_dir(self, trial) -> str:
        return str(self._save_into) if self._save_into else super()._get_output_dir(trial)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Writes the adapter alone: the Trainer would add a pickle of its arguments; ours are in the card."""
        state = adapter_state(self.model)  # by every process
        if self.args.should_save:
            folder = output_dir or self.args.output_dir
            self.model.save_pretrained(folder, state_dict=state, save_embedding_layers=False)

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

    def _save_checkpoint(self, model, trial) -> None:
        """Writes the checkpoint aside and gives it its name when it is whole; the earlier ones stay until then.

        Raises:
            CheckpointError: writing failed, for example because the disk is full.
            DivergedError: there is nothing worth saving; the checkpoints before stay.
        """
        self._routers.refuse()
        folder = Path(self.args.output_dir)

        def write(temporary: Path) -> None:
            self._save_into = temporary
            try:
                super(LynxTrainer, self)._save_checkpoint(model, trial)
            finally:
                self._save_into = None

        save_whole(folder / f"checkpoint-{self.state.global_step}", write, self.accelerator)
        if self.accelerator.is_main_process:
            keep_newest(folder, self.args.save_total_limit)
