"""The Hugging Face Trainer, told our loss, our schedule and our way of saving."""

from __future__ import annotations

import inspect
import shutil
from pathlib import Path

import torch
from torch import nn
from transformers import Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from lynx_moe.adapter import follow_loss_scale, penalty_values, set_gate
from lynx_moe.objectives.answer import answer_nats
from lynx_moe.objectives.retention import retention_nats
from lynx_moe.training.callbacks import DeadParameters, Progress, StopInTime
from lynx_moe.training.finite import RouterWatch
from lynx_moe.training.schedule import BudgetedCosine, TimeBudget
from lynx_moe.training.whole import aside, put_in_place, saving

OURS = ("labels", "is_grounding", "in_box")  # batch entries that are for the loss, not for the model


class LynxTrainer(Trainer):
    """Trains an adapter on grounding answers while holding understanding answers where the base has them.

    loss = mean cross-entropy over grounding answer tokens + retention_kl * mean KL(base || adapted) over understanding
    answer tokens. The first mean may weigh the tokens of boxes. Both go over all micro-batches of a step and over all
    devices, so that accumulating gives the gradient of the joint batch. All rows run with the gate on: a shut gate
    would leave nothing to learn from.

    Args:
        model: a PEFT model with a LynX adapter.
        retention_kl: weight of the KL; 0 saves the base's forward.
        box_weight: weight of a token that spells a box, where the other tokens of the answer weigh 1.
        warmup: share of the run over which the learning rate rises.
        budget: seconds that training may take.
        progress: show a progress bar.
        rest: as for `transformers.Trainer`. A batch holds `labels` (B, L), -100 outside answers, and `is_grounding`
            (B, L), which says of an answer's tokens which of the two terms they belong to; with a `box_weight` also
            `in_box` (B, L).
    """

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments,
        *,
        retention_kl: float = 0.0,
        box_weight: float = 1.0,
        warmup: float = 0.0,
        budget: TimeBudget | None = None,
        progress: bool = True,
        **rest,
    ):
        # One process, one device: torch's DataParallel would run replicas whose gates nobody set. Use torchrun.
        args._n_gpu = min(1, args.n_gpu)
        super().__init__(model=model, args=args, **rest)
        self.loss_is_scaled_for_ga = True
        self.retention_kl = retention_kl
        self.box_weight = box_weight
        self.warmup = warmup
        self.budget = budget or TimeBudget()
        self.dead_parameters = DeadParameters(model)
        self._keeps_logits = "logits_to_keep" in inspect.signature(model.get_base_model().forward).parameters
        self._routers = RouterWatch()
        self._sums: dict[str, torch.Tensor] = {}
        self._save_into: Path | None = None
        for default in (ProgressCallback, PrinterCallback):
            self.remove_callback(default)
        self.add_callback(StopInTime(self.budget))
        self.add_callback(self.dead_parameters)
        if progress:
            self.add_callback(Progress())

    # ---- the loss ----

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> torch.Tensor | None:
        """(2,) answer tokens of a whole step, over micro-batches and devices: [grounding (weighed), understanding]."""
        if not batch_samples:
            return None
        return self.accelerator.reduce(sum(self._counts(batch) for batch in batch_samples).to(device), "sum")

    def _counts(self, batch: dict) -> torch.Tensor:
        grounding_BL, understanding_BL = answer_kinds(batch)
        return torch.stack([self._weights(batch)[grounding_BL].sum(), understanding_BL.sum().float()])

    def _weights(self, batch: dict) -> torch.Tensor:
        """(B, L-1) what the prediction of each next token weighs among the grounding answers'."""
        weight_BL = torch.ones_like(batch["labels"][:, 1:], dtype=torch.float32)
        return weight_BL if self.box_weight == 1 else weight_BL.masked_fill(batch["in_box"][:, 1:], self.box_weight)

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        # Around the backward too: activation checkpointing runs blocks again there, and they must gate the same way.
        with set_gate(self.model, True):
            follow_loss_scale(self)
            return super().training_step(model, inputs, num_items_in_batch)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels_BL = inputs["labels"]
        grounding_BL, understanding_BL = answer_kinds(inputs)
        forward = forward_inputs(inputs)
        kept_K = (grounding_BL | understanding_BL).any(dim=0).nonzero().squeeze(1)
        if self._keeps_logits:
            # Logits only where some row has an answer: a picture's hundreds of tokens times a large vocabulary is most
            # of the memory otherwise.
            forward["logits_to_keep"] = kept_K

        retain = self.retention_kl > 0 and bool(understanding_BL.any())
        base = None
        if retain:
            # Before the adapted forward: PEFT switches requires_grad off and on around it.
            with torch.no_grad(), self.model.disable_adapter():
                rows_B = understanding_BL.any(dim=1)
                asked = rows_of(forward, rows_B) if one_picture_each(forward, self.model.get_base_model()) else None
                if asked is None:
                    asked, rows_B = forward, torch.ones_like(rows_B)
                base = self._at(self.model(**asked).logits, kept_K, understanding_BL[rows_B])

        with penalty_values(self.model) as blocks:
            outputs = model(**forward)
        if model.training:
            self._routers.see(blocks, self.state.global_step + 1)
        self._note_blocks(blocks)
        counts = num_items_in_batch
        if counts is None:
            counts = self._counts(inputs)
        # Data parallel averages over processes. Where there is nothing to count, the sum is 0 too.
        per_token = self.accelerator.num_processes / counts.where(counts > 0, 1)
        targets_T, weight_T = labels_BL[:, 1:][grounding_BL], self._weights(inputs)[grounding_BL]
        answer = answer_nats(self._at(outputs.logits, kept_K, grounding_BL), targets_T, weight_T) * per_token[0]
        loss = answer
        if retain:
            kept = retention_nats(self._at(outputs.logits, kept_K, understanding_BL), base) * per_token[1]
            loss = loss + self.retention_kl * kept
            self._note("retention_kl", kept)
        self._note("answer_loss", answer)
        return (loss, outputs) if return_outputs else loss

    def _at(self, logits: torch.Tensor, kept_K: torch.Tensor, kind_BL: torch.Tensor) -> torch.Tensor:
        """Logits (T, V) that predict the tokens marked in `kind_BL`, whether or not the model dropped the others."""
        logits_BKV = logits if self._keeps_logits else logits[:, kept_K]
        return logits_BKV[kind_BL[:, kept_K]]

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
            logs = {**logs, **{name: (total / steps).item() for name, total in self._sums.items()}}
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

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        # The adapter only. The Trainer would add a pickle of its arguments; ours are in the card.
        if self.args.should_save:
            self.model.save_pretrained(output_dir, state_dict=state_dict, is_main_process=True)

    def _save_checkpoint(self, model, trial) -> None:
        """Writes the checkpoint aside and gives it its name when it is whole; the earlier ones stay until then.

        Raises:
            CheckpointError: writing failed, for example because the disk is full.
            DivergedError: there is nothing worth saving; the checkpoints before stay.
        """
        self._routers.refuse()
        folder = Path(self.args.output_dir)
        final = folder / f"checkpoint-{self.state.global_step}"
        temporary = aside(final)
        main = self.accelerator.is_main_process
        with saving(final):
            if main:
                remove(temporary)
            self.accelerator.wait_for_everyone()
            self._save_into = temporary
            try:
                super()._save_checkpoint(model, trial)
                self.accelerator.wait_for_everyone()
                if main:
                    put_in_place(temporary / final.name, final)
            finally:
                self._save_into = None
                if main:
                    remove(temporary)
        if main:
            newest_first = sorted(folder.glob("checkpoint-*"), key=lambda p: -int(p.name.rpartition("-")[2]))
            for old in newest_first[self.args.save_total_limit :]:
                remove(old)


def remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def forward_inputs(batch: dict) -> dict:
    """What of a batch the model itself takes."""
    return {name: value for name, value in batch.items() if name not in OURS}


def one_picture_each(forward: dict, base: nn.Module) -> bool:
    """Whether every row has a picture, or none has: else a row with two and a row with none would look like two rows
    with one, and be cut in the wrong place.
    """
    config = base.config
    token = getattr(config, "image_token_id", getattr(config, "image_token_index", None))
    if token is None:
        return False
    shows_B = (forward["input_ids"] == token).any(dim=1)
    return bool(shows_B.all() or not shows_B.any())


def rows_of(forward: dict, rows_B: torch.Tensor) -> dict | None:
    """The model's inputs of some rows alone; None where one is not cut into rows (all pictures' patches, say)."""
    shared = {"logits_to_keep"}
    if any(len(value) != len(rows_B) for name, value in forward.items() if name not in shared):
        return None
    return {name: value if name in shared else value[rows_B] for name, value in forward.items()}


def answer_kinds(batch: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """Two (B, L-1) masks over positions whose next token is a grounding answer's, and an understanding answer's."""
    next_BL = batch["labels"][:, 1:] != -100
    is_grounding = batch["is_grounding"].bool()
    is_grounding_BL = is_grounding[:, 1:] if is_grounding.dim() == 2 else is_grounding[:, None].expand_as(next_BL)
    return next_BL & is_grounding_BL, next_BL & ~is_grounding_BL
