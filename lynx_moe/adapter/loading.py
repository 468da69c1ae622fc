"""Putting a saved adapter back on its base, for the rest of the library: only this package imports PEFT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peft import PeftModel
from torch import nn

from lynx_moe.errors import CheckpointError


def load_adapter(base: nn.Module, folder: str | Path, *, is_trainable: bool = False, **kwargs: Any) -> PeftModel:
    """`base` with the adapter that was saved in `folder`, in eval mode unless it is to be trained on.

    Raises:
        CheckpointError: there is no adapter in `folder`, or it was trained on a base of another family or shape.
    """
    folder = Path(folder)
    if not (folder / "adapter_config.json").is_file():
        raise CheckpointError(
            f"no adapter in {folder}",
            why="there is no adapter_config.json",
            fix="give the adapter/ folder of a finished run",
        )
    try:
        model = PeftModel.from_pretrained(base, str(folder), is_trainable=is_trainable, **kwargs)
    except CheckpointError:
        raise
    except (RuntimeError, ValueError, OSError) as problem:
        raise CheckpointError(
            f"the adapter in {folder} does not fit {type(base).__name__}: {str(problem).splitlines()[0]}",
            why="an adapter only fits the base that it was trained on",
            fix="load the base that its run.json or adapter_config.json names",
        ) from problem
    return model if is_trainable else model.eval()
