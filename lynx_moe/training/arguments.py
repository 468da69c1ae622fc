"""Our settings of a training in the words of transformers."""

from __future__ import annotations

import torch
from transformers import TrainingArguments

from lynx_moe.training.base import choose_precision
from lynx_moe.training.folder import RunFolder
from lynx_moe.training.settings import Settings
from lynx_moe.training.sharding import Sharding


def training_arguments(
    settings: Settings,
    folder: RunFolder,
    sharding: Sharding = Sharding(),
) -> TrainingArguments:
    """Our settings in the words of transformers. With DeepSpeed, call it inside `process_group`."""
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
        # DeepSpeed computes in what its config says, under an autocast of its own; bf16=True would cast all weights.
        bf16=precision == "bf16" and not sharding.is_deepspeed,
        fp16=precision == "fp16",
        # On a CPU too: use_cpu makes accelerate drop DeepSpeed without a word.
        use_cpu=not cuda and not sharding.is_deepspeed,
        deepspeed=sharding.deepspeed,
        accelerator_config={"use_configured_state": sharding.is_deepspeed},
        activation_checkpointing=chosen.checkpointing != "off",
        activation_checkpointing_kwargs={"use_reentrant": chosen.checkpointing == "reentrant"},
        logging_steps=chosen.log_every,
        logging_first_step=True,
        # A loss that is not a number must be seen, not averaged away.
        logging_nan_inf_filter=False,
        save_strategy="steps" if chosen.save_every else "no",
        save_steps=chosen.save_every or 500,
        save_total_limit=chosen.keep,
        eval_strategy="steps" if chosen.evaluate_every else "no",
        eval_steps=chosen.evaluate_every or None,
        per_device_eval_batch_size=chosen.batch_size,
        seed=settings.seed,
        data_seed=settings.seed,
        dataloader_num_workers=settings.data.workers,
        dataloader_pin_memory=cuda,
        remove_unused_columns=False,
        label_names=["labels"],
        ddp_find_unused_parameters=False,
        disable_tqdm=True,
        # Ours are callbacks of the trainer (lynx_moe.training.reporting): these would write beside the checkpoints.
        report_to=[],
        run_name=folder.path.name,
    )
