"""What a training holds beside its weights, as safetensors and JSON: nothing that is read back can run code.

Tensors of a file are its safetensors; plain numbers and names stand as JSON in its metadata.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from lynx_moe.errors import CheckpointError

PLAIN = "plain"

State = tuple[dict[str, Tensor], dict[str, Any]]  # tensors, and what JSON holds exactly


def write_state(path: Path, state: State) -> None:
    tensors, plain = state
    save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, path, metadata={PLAIN: json.dumps(plain)})


def read_state(path: Path) -> State:
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()[PLAIN])


def rng_state(device: torch.device) -> State:
    """The random numbers' generators of Python, numpy, torch and, unless it is the CPU, of `device`."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    tensors = {
        "rng/python": torch.tensor(words, dtype=torch.int64),
        "rng/numpy": torch.from_numpy(keys.astype(np.int64)),
        "rng/torch": torch.get_rng_state(),
    }
    if device.type != "cpu":
        tensors["rng/device"] = torch.get_device_module(device).get_rng_state(device)
    return tensors, {"python": [version, gauss], "numpy": [name, position, has_gauss, cached]}


def set_rng_state(state: State, device: torch.device) -> None:
    tensors, plain = state
    version, gauss = plain["python"]
    random.setstate((version, tuple(tensors["rng/python"].tolist()), gauss))
    name, *rest = plain["numpy"]
    np.random.set_state((name, tensors["rng/numpy"].numpy().astype(np.uint32), *rest))
    torch.set_rng_state(tensors["rng/torch"])
    if "rng/device" in tensors and device.type != "cpu":
        torch.get_device_module(device).set_rng_state(tensors["rng/device"], device)


@contextmanager
def same_random_numbers(device: torch.device) -> Iterator[None]:
    """Whatever draws random numbers inside, those drawn after the block are as if it had not been."""
    before = rng_state(device)
    try:
        yield
    finally:
        set_rng_state(before, device)


def optimizer_state(optimizer: Optimizer, model: nn.Module) -> State:
    """What the optimiser remembers of each parameter, by the parameter's name; not its settings."""
    tensors, plain = {}, {}
    order, held = _order(optimizer, model), optimizer.state_dict()["state"]
    for index, name in enumerate(order):
        for key, value in held.get(index, {}).items():
            if isinstance(value, Tensor):
                tensors[f"{name}/{key}"] = value
            else:
                plain.setdefault(name, {})[key] = value
    return tensors, plain


def load_optimizer_state(optimizer: Optimizer, model: nn.Module, state: State) -> None:
    """Puts back what `optimizer_state` gave; learning rate, weight decay and the like stay as they are now.

    Raises:
        CheckpointError: it is of other parameters.
    """
    tensors, plain = state
    order = _order(optimizer, model)
    held: dict[str, dict] = {name: dict(values) for name, values in plain.items()}
    for name, tensor in tensors.items():
        parameter, _, key = name.rpartition("/")
        held.setdefault(parameter, {})[key] = tensor
    strange = sorted(held.keys() - set(order))
    if strange:
        raise CheckpointError(
            f"the optimiser's state is of {len(strange)} parameters that do not train now, the first is {strange[0]}",
            why="the checkpoint was made with another adapter",
            fix="start again with overwrite=true, or with the adapter's settings of before",
        )
    by_index = {index: held[name] for index, name in enumerate(order) if name in held}
    optimizer.load_state_dict({"state": by_index, "param_groups": optimizer.state_dict()["param_groups"]})


def _order(optimizer: Optimizer, model: nn.Module) -> list[str]:
    """Names of the optimiser's parameters in the order in which its state counts them."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]
