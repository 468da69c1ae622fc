"""Loading the base: any VLM that transformers' image-text-to-text class can load, with its own processor."""

from __future__ import annotations

from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    BitsAndBytesConfig,
    PreTrainedModel,
    ProcessorMixin,
)

from lynx_moe.adapter.quantised import keep_trainable, outside_decoder_layers
from lynx_moe.errors import CheckpointError, ConfigError, LynxError
from lynx_moe.families.templates import give_template
from lynx_moe.training.checked import REQUIRED
from lynx_moe.training.settings import ModelSettings, QuantSettings

PACKAGE = "pkg://"


def resolve(path: str) -> str:
    """The folder or Hub name that `model.path` means.

    Raises:
        ConfigError: nothing was given, or the named Python package holds no such folder.
    """
    if path == REQUIRED:
        raise ConfigError("model.path is not set", why="a run needs a base", fix="give the folder of a VLM")
    if not path.startswith(PACKAGE):
        return path
    package, _, inside = path.removeprefix(PACKAGE).partition("/")
    try:
        folder = Path(str(files(package))) / inside
    except ModuleNotFoundError as problem:
        raise ConfigError(f"no Python package {package!r}", why=f"model.path is {path}", fix="install it") from problem
    if not (folder / "config.json").is_file():
        raise ConfigError(
            f"the package {package} holds no model in {inside!r}",
            why=f"{folder} has no config.json",
            fix="reinstall the package, or give another base: model=path model.path=/folder/of/a/vlm",
        )
    return str(folder)


def load_base(settings: ModelSettings, quant: QuantSettings | None = None) -> tuple[PreTrainedModel, ProcessorMixin]:
    """The base, frozen and in eval mode, and its processor.

    Raises:
        ConfigError: the path names no model, or bitsandbytes is asked for and not installed.
        CheckpointError: there is one, but it does not load as a vision-language model.
        FamilyError: what to quantise was to be found by structure, and the structure is not clear.
    """
    path = resolve(settings.path)
    dtype = settings.dtype if settings.dtype == "auto" else getattr(torch, settings.dtype)
    chosen = {"attn_implementation": settings.attention} if settings.attention else {}
    try:
        processor = AutoProcessor.from_pretrained(path)
        give_template(processor)
        chosen |= quantisation(path, dtype, quant or QuantSettings())
        model, loaded = AutoModelForImageTextToText.from_pretrained(
            path, dtype=dtype, output_loading_info=True, **chosen
        )
    except (LynxError, torch.OutOfMemoryError):
        raise
    except (OSError, ValueError, RuntimeError) as problem:
        raise CheckpointError(
            f"could not load a base from {path}: {str(problem).splitlines()[0]}",
            why="AutoProcessor and AutoModelForImageTextToText must both accept it",
            fix="check model.path; without a network it must be a folder",
        ) from problem
    refuse_missing_weights(path, loaded["missing_keys"])
    keep_trainable(model)
    return model.requires_grad_(False).eval(), processor


def refuse_missing_weights(path: str, missing: set[str]) -> None:
    """Raises CheckpointError when some are missing: transformers draws them at random, and only warns."""
    if missing:
        raise CheckpointError(
            f"{path} lacks {len(missing)} of the model's tensors, the first is {sorted(missing)[0]}",
            why="its config.json describes another model than its weights hold, or a file is missing",
            fix="copy the folder again, or take the config.json that belongs to these weights",
        )


def quantisation(path: str, dtype: torch.dtype | str, quant: QuantSettings) -> dict:
    """What `from_pretrained` must be told so that the base arrives quantised; nothing for kind "none".

    Raises:
        ConfigError: bitsandbytes is not installed, or `dtype` does not say what to compute in.
    """
    if quant.kind == "none":
        return {}
    if find_spec("bitsandbytes") is None:
        raise ConfigError(
            f"quant.kind is {quant.kind!r}",
            why="quantised bases need bitsandbytes, which is not installed",
            fix="pip install 'lynx-moe[quant]', or quant=none",
        )
    if not isinstance(dtype, torch.dtype):
        raise ConfigError(
            f"quant.kind is {quant.kind!r} with model.dtype {dtype!r}",
            why="what is not quantised, and what products are computed in, needs one number type",
            fix="use model.dtype=bfloat16",
        )
    skipped = quant.skip_modules
    if skipped is None:
        with torch.device("meta"):
            skipped = outside_decoder_layers(AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(path)))
    four_bit = quant.kind == "nf4"
    config = BitsAndBytesConfig(
        load_in_4bit=four_bit,
        load_in_8bit=not four_bit,
        llm_int8_skip_modules=list(skipped),
        # The model's own number type: with another one bitsandbytes would cast on every product.
        **({"bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": dtype} if four_bit else {}),
    )
    # Said, because left unsaid transformers takes the first GPU there is: wrong for every process but one.
    device = torch.cuda.current_device() if torch.cuda.is_available() else "cpu"
    return {"quantization_config": config, "device_map": {"": device}}


def choose_precision(asked: str) -> str:
    """What to compute in: as asked; for "auto" bf16 on a GPU that has it in hardware, else fp32.

    Never bf16 on a CPU by itself, AMX or not: oneDNN compiles a kernel per matmul shape, and every step brings experts
    other numbers of tokens. Measured on the pocket base: `docs/performance.md`.

    Raises:
        ConfigError: fp16 without a GPU.
    """
    cuda = torch.cuda.is_available()
    if asked == "fp16" and not cuda:
        raise ConfigError("trainer.precision is 'fp16'", why="half precision needs a GPU", fix="use bf16 or fp32")
    if asked != "auto":
        return asked
    return "bf16" if cuda and torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
