"""What is divided among processes, by which engine, and how what was divided is read whole again.

    none    DDP: everything everywhere, gradients averaged          zero3   weights too, base and adapter (DeepSpeed)
    zero2   gradients and optimiser divided (DeepSpeed)             fsdp2   the same, by torch (`fsdp.py`)

The only file that imports deepspeed. What is divided stays in its own number type: DeepSpeed's bf16 and fp16 modes cast
all weights, the frozen base among them, so precision is autocast here (`torch_autocast`), as it is without DeepSpeed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn
from transformers import AutoConfig

from lynx_moe.errors import CheckpointError, ConfigError
from lynx_moe.training.base import choose_precision, resolve
from lynx_moe.training.checkpoints import BY_NAME, PARTS, PLAIN
from lynx_moe.training.settings import ModelSettings, Settings

# Numbers sent at a time. DeepSpeed's own 500 million would reserve 2 GB for an adapter of some million parameters.
BUCKET = 50_000_000
LAUNCHED = "ACCELERATE_USE_DEEPSPEED"  # set by `accelerate launch --use_deepspeed`
THEIR_CONFIG = "ACCELERATE_DEEPSPEED_CONFIG_FILE"
OURS_ALONE = {
    "optimizer": "AdamW, its rate and its decay come from trainer.*",
    "scheduler": "the learning rate follows trainer.warmup, trainer.max_steps and trainer.max_seconds",
    "fp16": "it casts every weight, the frozen base too; use trainer.precision",
    "bf16": "it casts every weight, the frozen base too; use trainer.precision",
    "torch_autocast": "what is computed in is trainer.precision",
    "tensor_parallel": "blocks are not cut within a layer",
}


@dataclass(frozen=True)
class Sharding:
    """How a run is divided.

    Attributes:
        kind: "none", "zero1" (only by a DeepSpeed config of one's own), "zero2", "zero3" or "fsdp2".
        deepspeed: DeepSpeed's config; None where it takes no part.
    """

    kind: str = "none"
    deepspeed: dict | None = None

    @property
    def is_deepspeed(self) -> bool:
        return self.deepspeed is not None

    @property
    def divides_weights(self) -> bool:
        """Whether a process holds only a part of each weight, so that all must run the same modules in one order."""
        return self.kind in ("zero3", "fsdp2")


def plan_sharding(settings: Settings) -> Sharding:
    """What the settings, or an `accelerate launch` with DeepSpeed around them, ask for.

    Raises:
        ConfigError: it cannot be done, or settings and launcher contradict each other.
    """
    kind = settings.sharding.kind
    if os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true":
        raise ConfigError(
            "accelerate was told to use FSDP",
            why="its wrapper knows nothing of blocks whose weights are float32 beside a 16-bit base",
            fix="launch without --use_fsdp (or with torchrun) and give sharding=fsdp2",
        )
    theirs = launched_config() if os.environ.get(LAUNCHED, "").lower() == "true" else None
    if theirs is not None:
        asked = f"zero{theirs['zero_optimization']['stage']}"
        if kind not in ("none", asked):
            raise ConfigError(
                f"sharding.kind is {kind!r}, and accelerate was told to use DeepSpeed {asked}",
                why="one of the two has to give way",
                fix=f"use sharding={asked}, or launch without --use_deepspeed",
            )
        kind = asked
    refuse_impossible(settings, kind)
    if not kind.startswith("zero"):
        return Sharding(kind)
    return Sharding(kind, merged(deepspeed_config(settings, int(kind[-1])), theirs or {}))


def refuse_impossible(settings: Settings, kind: str) -> None:
    """Raises ConfigError for what no engine, or not this one, can do."""
    offload, quant = settings.sharding.offload, settings.quant.kind
    if offload != "none" and kind not in ("zero2", "zero3"):
        raise ConfigError(
            f"sharding.offload is {offload!r} with sharding.kind {kind!r}",
            why="only DeepSpeed's ZeRO-2 and ZeRO-3 are told to keep things in the host's memory",
            fix="use sharding=zero2_offload or sharding=zero3_offload, or sharding.offload=none",
        )
    if kind in ("zero3", "fsdp2") and quant != "none":
        raise ConfigError(
            f"quant.kind is {quant!r} with sharding.kind {kind!r}",
            why="bitsandbytes keeps the scales of a quantised weight beside it, whole; a part of the weight cannot be "
            "read with them",
            fix="use sharding=zero2, which leaves weights whole, or quant=none with model.dtype=bfloat16",
        )
    if kind in ("zero3", "fsdp2") and settings.trainer.prefix_cache != "off":
        raise ConfigError(
            f"trainer.prefix_cache is {settings.trainer.prefix_cache!r} with sharding.kind {kind!r}",
            why="processes miss different rows, and would wait for each other's weights forever",
            fix="use trainer.prefix_cache=off, or sharding=zero2, which leaves weights whole",
        )
    if kind in ("zero3", "fsdp2") and settings.trainer.publish == "best":
        raise ConfigError(
            f"trainer.publish is 'best' with sharding.kind {kind!r}",
            why="the best checkpoint's weights would have to be read back into weights that are divided",
            fix="trainer.publish=last; the best checkpoint is kept, and its folder is an adapter",
        )
    if kind != "none" and settings.trainer.precision == "fp16":
        raise ConfigError(
            f"trainer.precision is 'fp16' with sharding.kind {kind!r}",
            why="the penalties inside the blocks would not follow the engine's own loss scale",
            fix="use trainer.precision=bf16 or fp32",
        )
    if kind.startswith("zero") and find_spec("deepspeed") is None:
        raise ConfigError(
            f"sharding.kind is {kind!r}",
            why="it needs DeepSpeed, which is not installed",
            fix="pip install 'lynx-moe[deepspeed]', or use sharding=fsdp2",
        )


def deepspeed_config(settings: Settings, stage: int) -> dict:
    """Our settings in DeepSpeed's words."""
    chosen, cuda = settings.trainer, torch.cuda.is_available()
    zero = {
        "stage": stage,
        "overlap_comm": cuda,
        "contiguous_gradients": True,
        "reduce_bucket_size": BUCKET,
        "allgather_bucket_size": BUCKET,
    }
    if settings.sharding.offload == "cpu":
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": cuda}
        if stage == 3:
            zero["offload_param"] = {"device": "cpu", "pin_memory": cuda}
    return {
        "train_micro_batch_size_per_gpu": chosen.batch_size,
        "gradient_accumulation_steps": chosen.accumulate,
        # Said also when it is 0: left unsaid, DeepSpeed's front ends clip to 1.
        "gradient_clipping": chosen.max_grad_norm,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        # Off a GPU DeepSpeed's own AdamW is compiled for minutes, to do what torch's does.
        "zero_force_ds_cpu_optimizer": cuda,
        "torch_autocast": {
            "enabled": choose_precision(chosen.precision) == "bf16",
            "dtype": "bfloat16",
            "lower_precision_safe_modules": [],  # gradients travel in float32
        },
    }


def launched_config() -> dict:
    """The DeepSpeed config that `accelerate launch` hands over, as a file or in its own environment variables."""
    given = os.environ.get(THEIR_CONFIG, "none")
    if given != "none":
        try:
            config = json.loads(Path(given).read_text(encoding="utf-8"))
        except (OSError, ValueError) as problem:
            raise ConfigError(
                f"cannot read the DeepSpeed config {given}: {problem}",
                why="accelerate launch --deepspeed_config_file names it",
                fix="give a JSON file",
            ) from problem
    else:
        offload = {
            name: {"device": os.environ[variable]}
            for name, variable in (
                ("offload_optimizer", "ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE"),
                ("offload_param", "ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE"),
            )
            if os.environ.get(variable, "none") != "none"
        }
        stage = int(os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2"))
        config = {"zero_optimization": {"stage": stage, **offload}}
    zero = config.get("zero_optimization")
    if not isinstance(zero, dict) or zero.get("stage") not in (1, 2, 3):
        raise ConfigError(
            f"the DeepSpeed config of the launcher asks for ZeRO stage {(zero or {}).get('stage')!r}",
            why="stages 1, 2 and 3 divide something; without them plain DDP does the same",
            fix="set zero_optimization.stage, or launch without DeepSpeed",
        )
    return config


def merged(ours: dict, theirs: dict) -> dict:
    """`ours` with what `theirs` adds; "auto" leaves it to us.

    Raises:
        ConfigError: both say something about the same thing, and not the same.
    """
    result = dict(ours)
    for name, value in theirs.items():
        off = value == "auto" or isinstance(value, dict) and str(value.get("enabled")).lower() in ("auto", "false")
        if off and name != "zero_optimization":
            continue
        if name in OURS_ALONE:
            raise ConfigError(
                f"the launcher's DeepSpeed config has a section {name!r}", why=OURS_ALONE[name], fix="take it out"
            )
        if name == "zero_optimization":
            result[name] = {**ours[name], **{k: v for k, v in value.items() if v != "auto"}}
        elif name == "train_batch_size":
            pass  # checked by DeepSpeed against batch, accumulation and processes
        elif name in ours and not name.startswith("zero_") and ours[name] != value:
            raise ConfigError(
                f"the launcher's DeepSpeed config says {name}={value!r}, the settings {ours[name]!r}",
                why="batch_size, accumulate and max_grad_norm of trainer.* are what the run is planned with",
                fix=f'write "{name}": "auto" there, or give trainer.* the same number',
            )
        result.setdefault(name, value)
    return result


def refuse_foreign_checkpoint(sharding: Sharding, checkpoint: Path, processes: int) -> None:
    """Nothing, when this run can read what the optimiser of the earlier one remembers.

    Raises:
        CheckpointError: another engine wrote it, or DeepSpeed with another number of processes.
    """
    plain, by_name, divided = (len(list(checkpoint.glob(pattern))) for pattern in (PLAIN, BY_NAME, PARTS))
    readable = {"none": plain, "fsdp2": by_name}.get(sharding.kind, divided == processes)
    if not readable:
        wrote = f"DeepSpeed with {divided} processes" if divided else "FSDP2" if by_name else "an undivided run"
        raise CheckpointError(
            f"{checkpoint.name} was written by {wrote}; this run has sharding.kind {sharding.kind!r} and {processes} "
            "processes",
            why="each engine keeps what the optimiser remembers in its own form, DeepSpeed in one part per process",
            fix="go on with the sharding, and for DeepSpeed the number of processes, that it began with",
        )


def refuse_if_not_in_use(sharding: Sharding, wrapped: nn.Module) -> None:
    """Nothing, when the prepared model is really divided as asked.

    accelerate drops DeepSpeed and FSDP without a word in some set-ups (use_cpu, no backend), and trains undivided.

    Raises:
        ConfigError: it is not.
    """
    if sharding.kind == "none":
        return
    if sharding.is_deepspeed:
        stage = getattr(wrapped, "zero_optimization_stage", None)
        in_use = type(wrapped).__name__ == "DeepSpeedEngine" and stage is not None and stage() == int(sharding.kind[-1])
    else:
        in_use = all(hasattr(p, "full_tensor") for p in wrapped.parameters() if p.requires_grad)
    if not in_use:
        raise ConfigError(
            f"sharding.kind is {sharding.kind!r}, but the model was prepared as a plain {type(wrapped).__name__}",
            why="something around the run (ACCELERATE_* variables, another library) switched the engine off",
            fix="launch with torchrun, without accelerate's own settings",
        )


@contextmanager
def divided_loading(sharding: Sharding, model: ModelSettings) -> Iterator[None]:
    """Inside, under ZeRO-3, transformers hands each process its part of every weight of the base as it is read.

    The first process of all reads the files into its host's memory; no device ever holds the whole base.
    """
    if sharding.kind != "zero3":
        yield
        return
    from transformers.integrations.deepspeed import HfDeepSpeedConfig, unset_hf_deepspeed_config

    dtype = model.dtype
    if dtype == "auto":
        dtype = str(AutoConfig.from_pretrained(resolve(model.path)).dtype or torch.float32).removeprefix("torch.")
    # For loading alone, the number type that the base is held in: without it every weight would arrive in float32.
    mode = {"bfloat16": {"bf16": {"enabled": True}}, "float16": {"fp16": {"enabled": True}}}.get(dtype, {})
    plain = {name: value for name, value in sharding.deepspeed.items() if name != "torch_autocast"}
    config = HfDeepSpeedConfig({**plain, **mode})  # transformers looks for it for as long as it is alive
    try:
        yield
    finally:
        unset_hf_deepspeed_config()
        del config


def use_gloo_alone() -> None:
    """Keeps DeepSpeed on a CPU from compiling its own transport within a machine, for minutes; gloo will do."""
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


@contextmanager
def whole(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """Inside, `tensor` with all its numbers, also where each process holds a part. Every process has to come here."""
    if hasattr(tensor, "ds_id"):
        import deepspeed

        with deepspeed.zero.GatheredParameters([tensor]):
            yield tensor.data
    elif hasattr(tensor, "full_tensor"):
        yield tensor.full_tensor()
    else:
        yield tensor


def whole_state(model: nn.Module, wanted: Callable[[str], bool]) -> dict[str, torch.Tensor]:
    """The wanted part of `model.state_dict()`, whole and on the CPU, gathered tensor by tensor. By every process."""
    state = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if wanted(name) and isinstance(tensor, torch.Tensor):
            with whole(tensor) as all_of_it:
                state[name] = all_of_it.detach().to("cpu", copy=True)
    return state
