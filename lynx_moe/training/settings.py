"""Every setting of a training run, with its default and its meaning, which are written nowhere else: here, and those of
objectives in `objective_settings`.

The dataclasses are the schema that Hydra composes against, so a misspelt key or a wrong type stops before anything is
loaded. They know nothing of PEFT, torch or Hydra; `slots=True` is what makes OmegaConf refuse unknown keys.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, get_type_hints

from lynx_moe.errors import ConfigError
from lynx_moe.training.checked import REQUIRED, Checked, setting
from lynx_moe.training.objective_settings import ObjectiveSettings

BASELINE_ONLY = ("method", "lora_rank")  # adapter settings that are not LynxConfig's


@dataclass(kw_only=True, slots=True)
class ModelSettings(Checked):
    path: str = setting(
        REQUIRED, "base VLM: a folder, a Hub name, or pkg://package/folder for weights shipped inside a Python package"
    )
    dialect: str = setting("percent", "how boxes are written in text: a name from lynx_moe.families.dialects")
    dtype: str = setting(
        "float32",
        "number type the frozen base is held in; adapter parameters stay float32",
        choices=("float32", "bfloat16", "float16", "auto"),
    )
    attention: str | None = setting(
        None, "attention implementation of transformers (eager is fastest for tiny bases on a CPU); null: its choice"
    )


@dataclass(kw_only=True, slots=True)
class QuantSettings(Checked):
    kind: str = setting(
        "none",
        "how the frozen base's weights are held: none is model.dtype; int8 and nf4 are bitsandbytes'",
        choices=("none", "int8", "nf4"),
    )
    skip_modules: list[str] | None = setting(
        None, "modules left in model.dtype, by name; null: everything outside the text decoder's layers"
    )


@dataclass(kw_only=True, slots=True)
class AdapterSettings(Checked):
    method: str = setting(
        "lynx",
        "what is trained: lynx is the new experts; to compare with, lora on all linear maps of the text decoder, or "
        "full, trained copies of its layers; of these two the other adapter settings but lora_rank say nothing",
        choices=("lynx", "lora", "full"),
    )
    lora_rank: int = setting(16, "rank of method lora; its scale is 2", low=1)
    num_experts: int = setting(4, "new experts per block", low=1)
    top_k: int = setting(2, "new experts that speak per token", low=1)
    expert_width: int | None = setting(None, "inner width of a new expert; null: a divisor of the base's FFN width")
    mix: str = setting("additive", "how new experts join the frozen ones", choices=("additive", "convex", "token"))
    layers: Any = setting("every_other", "decoder layers with a block: every_other, all, upper_half, or a list")
    expert_kind: str = setting("gated", "form of a new expert: gated, or plain as in OPT", choices=("gated", "plain"))
    expert_init: str = setting("zero", "how new experts start", choices=("zero", "slice", "copy"))
    prompt_gate: str = setting("auto", "who decides per prompt if new experts speak", choices=("auto", "on", "off"))
    attention_rank: int = setting(
        0, "rank of deltas on the attention from the lowest wrapped layer up; 0: none, as in the paper", low=0
    )
    sparsity_penalty: str = setting("l1", "what is charged for an open gate: a name from the gate penalties")
    gate_sparsity: float = setting(1e-2, "gating strength: weight of the sparsity penalty", low=0.0)
    alpha_init: float = setting(
        0.9, "where alpha, the share of the frozen experts, starts; convex mix only", low=0.0, high=1.0
    )
    balance: float = setting(1e-2, "weight of the new router's load balance term, per block", low=0.0)
    router_z: float = setting(0.0, "weight of the new router's z-loss, per block", low=0.0)
    target_modules: list[str] | None = setting(None, "FFN modules to wrap by name; null: found by structure")
    exclude_modules: list[str] | None = setting(None, "modules never to wrap")


@dataclass(kw_only=True, slots=True)
class DataSettings(Checked):
    folder: str = setting(REQUIRED, "folder of records, as synth writes it")
    make: dict[str, list[str]] | None = setting(
        {},
        "per split, arguments of `python -m synth` that make it when missing; empty: missing data is an error; null: "
        "that, whatever an experiment asks for",
    )
    split: str = setting("train", "split to train on")
    prompts: str | None = setting(
        None, "split whose questions, of all tasks, the prompt gate is fitted on; null: the split trained on"
    )
    held_out: str = setting("validation", "split that the prompt gate's held-out error is measured on, when it exists")
    kinds: list[str] = setting(["grounding", "understanding"], "kinds of records to train on")
    tasks: list[str] | None = setting(
        None, "synthesis tasks to train on, a kind standing for all tasks of that kind; null: all tasks"
    )
    limit: int | None = setting(None, "use at most this many records; null: all of them", low=1)
    packing: str | None = setting(
        None,
        "what shares a row of pack_tokens: picture, records of one picture behind it; sequence, also of different "
        "pictures; none: one record per row; null: picture if pack_tokens is given",
        choices=("none", "picture", "sequence"),
    )
    pack_tokens: int | None = setting(
        None,
        "tokens of a row that holds several records, a picture they share computed once; batch_size then counts such "
        "rows; null: one record per row",
        low=1,
    )
    max_left_out: float = setting(
        0.5,
        "share of the records looked at that may be unusable (a box cropped away, not writable, longer than the "
        "model's positions): they are left out and counted; above it the run does not start",
        low=0.0,
        high=1.0,
    )
    workers: int = setting(
        0, "processes that load pictures and tokenise; 0: the training process itself", low=0, free=True
    )


@dataclass(kw_only=True, slots=True)
class TrainerSettings(Checked):
    epochs: float = setting(1.0, "passes over the records, unless max_steps says otherwise", low=0.0)
    max_steps: int | None = setting(None, "optimiser steps; null: as many as the epochs need", low=1)
    max_seconds: float | None = setting(
        None, "stop cleanly after this many seconds of training; the learning rate has come down by then", low=0.0
    )
    batch_size: int = setting(32, "records per device and micro-batch", low=1)
    accumulate: int = setting(1, "micro-batches per optimiser step; the gradient is that of the joint batch", low=1)
    learning_rate: float = setting(1e-3, "peak learning rate of AdamW", low=0.0)
    warmup: float = setting(0.03, "share of the run over which the learning rate rises", low=0.0, high=1.0)
    weight_decay: float = setting(0.0, "AdamW weight decay of the new experts and routers", low=0.0)
    max_grad_norm: float = setting(1.0, "gradients are clipped to this norm; 0: never", low=0.0)
    precision: str = setting(
        "auto",
        "what to compute in: auto is bf16 on a GPU that has it, else fp32; fp16 is for GPUs without bf16",
        choices=("auto", "bf16", "fp16", "fp32"),
    )
    checkpointing: str = setting(
        "off", "recompute activations to save memory", choices=("off", "non_reentrant", "reentrant")
    )
    prefix_cache: str = setting(
        "off",
        "what of the frozen part is computed once and read from disk in later epochs and runs: vision is the picture's "
        "side, decoder also all layers below the lowest wrapped FFN",
        choices=("off", "vision", "decoder"),
    )
    cache_dir: str | None = setting(
        None, "folder of the prefix cache, for any number of runs at once; null: prefix-cache in data.folder", free=True
    )
    log_every: int = setting(10, "steps between two rows of log.jsonl", low=1, free=True)
    save_every: int = setting(500, "steps between two checkpoints; 0: none but the best", low=0, free=True)
    keep: int = setting(2, "checkpoints to keep, newest first", low=1, free=True)
    evaluate_every: int = setting(
        0, "steps between two measurements of the loss on data.held_out, eval_loss in log.jsonl; 0: never", low=0
    )
    evaluate_records: int = setting(256, "held-out records to measure on, at most", low=1)
    keep_best: bool = setting(True, "keep the checkpoint of the lowest eval_loss too; needs evaluate_every")
    publish: str = setting(
        "last", "which step becomes adapter/: the last, or the one of the lowest eval_loss", choices=("last", "best")
    )
    resume: str = setting(
        "auto",
        "what to do with an unfinished run in output_dir: auto goes on if it has the same settings, always goes on "
        "with those given now, never is an error",
        choices=("auto", "always", "never"),
        free=True,
    )
    progress: bool = setting(True, "show a progress bar", free=True)

    def __post_init__(self) -> None:
        Checked.__post_init__(self)
        if self.publish == "best" and not (self.evaluate_every and self.keep_best):
            raise ConfigError(
                f"trainer.publish is 'best' with trainer.evaluate_every={self.evaluate_every} and "
                f"trainer.keep_best={str(self.keep_best).lower()}",
                why="the best step is found by measuring, and published from its checkpoint",
                fix="give trainer.evaluate_every=100, say, and leave trainer.keep_best=true",
            )

    report_to: list[str] = setting(
        ["tensorboard"],
        "who else gets the numbers of log.jsonl and of every block; TensorBoard writes into the run's folder, keys of "
        "the others come from the environment",
        choices=("tensorboard", "wandb", "mlflow"),
        free=True,
    )


@dataclass(kw_only=True, slots=True)
class ShardingSettings(Checked):
    kind: str = setting(
        "none",
        "what is divided among processes: nothing, optimiser and gradients (zero2), or weights too (zero3, fsdp2)",
        choices=("none", "zero2", "zero3", "fsdp2"),
    )
    offload: str = setting(
        "none",
        "cpu keeps the optimiser, and with zero3 the divided weights too, in the host's memory",
        choices=("none", "cpu"),
    )


@dataclass(kw_only=True, slots=True)
class EvaluationSettings(Checked):
    split: str | None = setting(
        None, "split whose questions the base and the adapter answer when training is over; null: no measuring"
    )
    tasks: list[str] | None = setting(None, "synthesis tasks to ask about, as for data.tasks; null: all tasks")
    limit: int | None = setting(None, "ask at most this many questions, drawn the same way every time", low=1)
    batch_size: int = setting(64, "prompts per forward", low=1)
    gate: str = setting(
        "auto",
        "prompt gate while the adapter answers: as adapter.prompt_gate says, or forced on",
        choices=("auto", "on"),
    )
    base_answers: str | None = setting(
        None,
        "folder where the base's own answers wait for other runs to compare with; null: a sweep's own, else none",
        free=True,
    )


@dataclass(kw_only=True, slots=True)
class Settings(Checked):
    model: ModelSettings = field(default_factory=ModelSettings)
    quant: QuantSettings = field(default_factory=QuantSettings)
    adapter: AdapterSettings = field(default_factory=AdapterSettings)
    data: DataSettings = field(default_factory=DataSettings)
    trainer: TrainerSettings = field(default_factory=TrainerSettings)
    sharding: ShardingSettings = field(default_factory=ShardingSettings)
    objective: ObjectiveSettings = field(default_factory=ObjectiveSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    output_dir: str = setting(
        "outputs/train", "folder of the run: adapter/, run.json, log.jsonl, settings.json, checkpoints/", free=True
    )
    seed: int = setting(0, "seeds the new experts, the order of records and dropout")
    overwrite: bool = setting(
        False,
        "throw away what is in output_dir: a finished run, or one of other settings; an unfinished one of the same "
        "settings goes on unless trainer.resume=never",
        free=True,
    )


GROUPS = {
    "model": ModelSettings,
    "quant": QuantSettings,
    "adapter": AdapterSettings,
    "data": DataSettings,
    "trainer": TrainerSettings,
    "sharding": ShardingSettings,
    "objective": ObjectiveSettings,
    "evaluation": EvaluationSettings,
}


def describe(kind: type = Settings, prefix: str = "") -> Iterator[tuple[str, str, Any, str]]:
    """(dotted key, type, default, help) of every setting, in order: the source of `--help` and of the docs table.

    >>> next(row for row in describe() if row[0] == "adapter.top_k")
    ('adapter.top_k', 'int', 2, 'new experts that speak per token')
    """
    hints = get_type_hints(kind)
    for each in fields(kind):
        if is_dataclass(hints[each.name]):
            yield from describe(hints[each.name], f"{prefix}{each.name}.")
            continue
        default = each.default_factory() if callable(each.default_factory) else each.default
        hint = hints[each.name].__name__ if isinstance(hints[each.name], type) else str(hints[each.name])
        text = each.metadata["help"]
        if each.metadata["choices"]:
            text += f" ({', '.join(each.metadata['choices'])})"
        yield f"{prefix}{each.name}", hint, default, text


def free_settings(kind: type = Settings, prefix: str = "") -> set[str]:
    """Dotted names of the settings that may differ between starting a run and going on with it.

    >>> "trainer.keep" in free_settings(), "trainer.learning_rate" in free_settings()
    (True, False)
    """
    hints, found = get_type_hints(kind), set()
    for each in fields(kind):
        if is_dataclass(hints[each.name]):
            found |= free_settings(hints[each.name], f"{prefix}{each.name}.")
        elif each.metadata["free"]:
            found.add(f"{prefix}{each.name}")
    return found
