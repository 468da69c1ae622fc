"""What an export weighs on disk and computes per token, beside its base: from shapes alone, no forward is run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from lynx_moe.adapter.quantised import number_of_weights
from lynx_moe.export.built import Built
from lynx_moe.export.read import Adapted

# How families call the number of experts that a token takes, on the router or on the block that holds it.
CHOSEN = ("top_k", "num_experts_per_tok", "moe_topk")
OURS = "lynx_"


@dataclass(frozen=True)
class Cost:
    """`size_bytes` of all weights as files hold them; `flops_per_token` of the text decoder's matrices and head.

    A multiplication and an addition count as two. Attention scores and the vision tower are left out: they are the
    base's on every route. Of routed experts those count that a token takes.
    """

    size_bytes: int
    flops_per_token: int

    def __str__(self) -> str:
        return f"{readable(self.size_bytes, 'B')}, {readable(self.flops_per_token, 'FLOPs')} per token"


def cost_of_base(adapted: Adapted) -> Cost:
    """The base alone, as it lies there now: quantised weights weigh what their packed bytes do."""
    return Cost(_size(adapted.base, ours=False), _flops(adapted.base, _decoder(adapted), ours=False))


def cost_of_live(adapted: Adapted) -> Cost:
    """The base with its adapter, the gate open. The size is the adapter's own: the base is not shipped with it."""
    size = _size(adapted.base, ours=True) - _size(adapted.base, ours=False)
    return Cost(size, _flops(adapted.base, _decoder(adapted), ours=True))


def cost_of(model: nn.Module, adapted: Adapted) -> Cost:
    """A model made from `adapted`, whose decoder layers lie where the base has them; its tensors may be on meta."""
    return Cost(_size(model, ours=True), _flops(model, _decoder(adapted), ours=True))


def cost_of_tensors(built: Built, adapted: Adapted) -> Cost:
    """A model that no class here can hold: its tensors, and the arithmetic of the live one, which it is to repeat."""
    distinct = {(tensor.data_ptr() or name, tensor.shape): tensor for name, tensor in built.tensors.items()}
    return Cost(sum(t.numel() * t.element_size() for t in distinct.values()), cost_of_live(adapted).flops_per_token)


def readable(number: float, unit: str) -> str:
    """
    >>> readable(14_200_000_000, "B"), readable(512, "FLOPs")
    ('14.2 GB', '512 FLOPs')
    """
    for letter in ("", "k", "M", "G", "T"):
        if number < 1000 or letter == "T":
            return f"{number:.3g} {letter}{unit}"
        number /= 1000


def _decoder(adapted: Adapted) -> tuple[str, ...]:
    """Beginnings of the names of all decoder layers."""
    return tuple({f"{place.inside.rpartition('.')[0]}." for place in adapted.places.values()})


def _is_ours(name: str) -> bool:
    return any(part.startswith(OURS) for part in name.split("."))


def _size(model: nn.Module, ours: bool) -> int:
    # Tied weights are one parameter here, as they are on disk.
    saved = model.state_dict(keep_vars=True).keys()
    buffers = [(name, buffer) for name, buffer in model.named_buffers() if name in saved]
    held = (tensor for name, tensor in (*model.named_parameters(), *buffers) if ours or not _is_ours(name))
    return sum(tensor.numel() * tensor.element_size() for tensor in held)


def _flops(model: nn.Module, layers: tuple[str, ...], ours: bool) -> int:
    head = model.get_output_embeddings()
    counted = sum(
        number_of_weights(parameter) * _share(model, name)
        for name, parameter in _matrices(model, layers)
        if ours or not _is_ours(name)
    )
    return round(2 * (counted + (0 if head is None else number_of_weights(head.weight))))


def _matrices(model: nn.Module, layers: tuple[str, ...]) -> Iterator[tuple[str, nn.Parameter]]:
    # Tied matrices are used as often as they have names.
    for name, parameter in model.named_parameters(remove_duplicate=False):
        # The prompt gate's head lies in a layer and runs once per prompt.
        if name.startswith(layers) and parameter.ndim > 1 and "lynx_prompt_gate" not in name:
            yield name, parameter


def _share(model: nn.Module, name: str) -> float:
    """The part of a matrix that one token meets: chosen experts of all, and 1 for what is not routed."""
    path, _, leaf = name.rpartition(".")
    parts = path.split(".")
    for depth in range(len(parts) - 1, 0, -1):
        if parts[depth].isdigit() and "experts" in parts[depth - 1]:
            above = ".".join(parts[:depth])
            experts = len(model.get_submodule(above))
            return _chosen(model, above, experts) / experts
    owner = model.get_submodule(path)
    parameter = getattr(owner, leaf)
    if parameter.ndim != 3 or isinstance(owner, nn.Conv1d):
        return 1.0
    return _chosen(model, path, len(parameter)) / len(parameter)


def _chosen(model: nn.Module, path: str, experts: int) -> int:
    """How many experts a token takes, from the nearest module that says so; all where none does."""
    below = None
    while path:
        owner = model.get_submodule(path)
        said = _said(owner) or next(
            (found for child in _routing(owner, below) if (found := _said(child)) is not None), None
        )
        if said is not None:
            return min(said, experts)
        path, _, below = path.rpartition(".")
    return experts


def _routing(owner: nn.Module, below: str | None) -> Iterator[nn.Module]:
    """Children of `owner` without experts of their own: a router among them speaks for those below `below`."""
    for name, child in owner.named_children():
        if name != below and not any(p.ndim == 3 for p in child.parameters()):
            yield from child.modules()


def _said(module: nn.Module) -> int | None:
    return next((n for name in CHOSEN if isinstance(n := getattr(module, name, None), int)), None)
