"""Where the numbers of a training go beside its own log: the integrations of transformers, told where to write."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import find_spec

from transformers import TrainerCallback

from lynx_moe.errors import ConfigError
from lynx_moe.training.folder import RunFolder

REPORTERS = ("tensorboard", "wandb", "mlflow")


def check_reporters(names: Sequence[str]) -> None:
    """Nothing, when all of them are installed.

    Raises:
        ConfigError: one is not. Called before anything is loaded.
    """
    for name in names:
        if find_spec(name) is None:
            extra = "'lynx-moe[train]'" if name == "tensorboard" else name
            raise ConfigError(
                f"trainer.report_to names {name!r}",
                why="it is not installed",
                fix=f"pip install {extra}, or trainer.report_to=[]",
            )


def reporters(names: Sequence[str], folder: RunFolder) -> list[TrainerCallback]:
    """The callbacks of transformers for `names`, of which TensorBoard's writes into the run's folder.

    Keys and servers are W&B's and MLflow's own environment variables (WANDB_API_KEY, MLFLOW_TRACKING_URI); without a
    network WANDB_MODE=offline, and MLflow's local store, keep everything on disk.
    """
    made = []
    for name in names:
        callback = _callback(name)
        if name == "tensorboard":
            callback.logging_dir = str(folder.tensorboard)
        made.append(callback)
    return made


def end_reporters(names: Sequence[str]) -> None:
    """Closes what transformers leaves open: the next run of this process would write into this one's W&B run."""
    # Looked up, not imported: transformers has imported it where it was used, and we do not depend on it.
    if "wandb" in names and "wandb" in sys.modules:
        sys.modules["wandb"].finish()


def _callback(name: str) -> TrainerCallback:
    # Inside: each imports its whole library.
    from transformers.integrations import integration_utils

    return integration_utils.INTEGRATION_TO_CALLBACK[name]()
