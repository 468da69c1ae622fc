"""A fingerprint of the base: the promise that training left every byte of it alone, made checkable."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from lynx_moe.training.sharding import whole

WRAPPED = ("base_layer", "original_module")  # what PEFT puts between a wrapped module and its name
CHUNK = 64 * 2**20  # bytes brought to the CPU at a time


@dataclass(frozen=True)
class BaseHash:
    """sha256 of every tensor by name, and one digest over all of them."""

    tensors: dict[str, str]

    @property
    def digest(self) -> str:
        lines = "".join(f"{name} {value}\n" for name, value in sorted(self.tensors.items()))
        return hashlib.sha256(lines.encode()).hexdigest()

    def changed(self, other: BaseHash) -> list[str]:
        """Names of tensors that differ, or that only one of the two has."""
        names = self.tensors.keys() | other.tensors.keys()
        return sorted(name for name in names if self.tensors.get(name) != other.tensors.get(name))


def hash_base(model: nn.Module, adapter_parts: tuple[str, ...] = ()) -> BaseHash:
    """Hashes every tensor of the base's state dict: name, type, shape and bytes.

    Wrapped or not gives the same answer, so a hash from before the adapter was attached can be compared with one from
    after training; so does divided among processes or not, where every process has to call this.

    Args:
        model: the VLM itself; with an adapter inside, `peft_model.get_base_model()`.
        adapter_parts: a tensor whose name has a part that starts with one of these is the adapter's and is left out.
    """
    hashes = {}
    for name, tensor in _base_tensors(model, adapter_parts):
        with whole(tensor) as all_of_it:
            hashes[name] = _sha256(all_of_it)
    return BaseHash(hashes)


def _base_tensors(model: nn.Module, adapter_parts: tuple[str, ...]) -> Iterator[tuple[str, torch.Tensor]]:
    for name, tensor in model.state_dict(keep_vars=True).items():
        parts = name.split(".")
        if any(part.startswith(adapter_parts) for part in parts):
            continue
        if not isinstance(tensor, torch.Tensor):
            continue
        yield ".".join(part for part in parts if part not in WRAPPED), tensor


def _sha256(tensor: torch.Tensor) -> str:
    digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    flat = tensor.detach().reshape(-1)
    step = max(1, CHUNK // max(1, flat.element_size()))
    for start in range(0, flat.numel(), step):
        # numpy has no bfloat16, bytes it has.
        digest.update(flat[start : start + step].cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()
