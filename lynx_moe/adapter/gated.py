"""What every wrapped module has in common: the base's own module inside, and a prompt gate that decides per row."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from lynx_moe.adapter.gate_context import Rows, Runtime
from lynx_moe.errors import CheckpointError, ConfigError, ExportError


@dataclass(frozen=True)
class Turn:
    """One adapter's turn in one forward: which rows it may change, and whether this forward is learned from.

    `open_B` has one bool per entry of the first dimension: rows, or tokens or pictures of rows where a layer flattens.
    """

    rows: Rows
    open_B: Tensor
    learning: bool

    def keep_shut_rows(self, y: Tensor, f: Tensor) -> Tensor:
        """`y` where the gate is open, `f` bit for bit where it is shut."""
        return y if self.rows.all_open else torch.where(self.open_B.view(-1, *[1] * (f.ndim - 1)), y, f)


class GatedLayer(nn.Module, BaseTunerLayer):
    """A frozen module called as it is, whose output the active adapters then change in the rows that they may.

    A subclass has one `nn.ModuleDict` of adapters, named by `adapter_layer_names`, and says in `changed` what one does.
    """

    adapter_layer_names: tuple[str, ...] = ()

    def __init__(self, base_layer: nn.Module, *, name: str, runtime: Runtime):
        super().__init__()
        self.base_layer = base_layer
        for container in self.adapter_layer_names:
            setattr(self, container, nn.ModuleDict())
        self.name = name
        self.runtime = runtime
        self._disable_adapters = False
        self.merged_adapters = []

    @property
    def adapters(self) -> nn.ModuleDict:
        """Adapter name to what it adds here."""
        return getattr(self, self.adapter_layer_names[0])

    def read(self, x: Tensor) -> Tensor:
        """What the new weights are given, when the frozen module was given `x`."""
        return x

    @abstractmethod
    def changed(self, adapter_name: str, x: Tensor, f: Tensor, turn: Turn) -> Tensor:
        """The output with this adapter: `turn.keep_shut_rows(something, f)`. Called outside any autocast."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        result = self.base_layer(x, *args, **kwargs)
        x = self.read(x)
        if self.disable_adapters:
            return result
        f = result[0] if isinstance(result, tuple) else result
        for adapter_name in self.runtime.speaking(self.active_adapters):
            if adapter_name in self.adapters:
                f = self._speak(adapter_name, x, f)
        return (f, *result[1:]) if isinstance(result, tuple) else f

    def _speak(self, adapter_name: str, x: Tensor, f: Tensor) -> Tensor:
        rows = self.runtime.rows_of(adapter_name)
        learning = self.training and torch.is_grad_enabled()
        if not rows.any_open and not learning and not _is_partitioned(self.adapters[adapter_name]):
            return f
        # While learning the new weights run even if every row is shut: each trainable tensor gets a gradient (zero
        # here) on every step and on every rank, which sharded training waits for.
        if rows.open_B is None:
            open_B = torch.full((x.shape[0],), rows.all_open, device=f.device)
        else:
            open_B = rows.open_B.to(f.device)
        if x.shape[0] % len(open_B) == 0:
            # Some layers flatten rows and tokens before their FFN (OPT), others rows and pictures (mllama).
            open_B = open_B.repeat_interleave(x.shape[0] // len(open_B))
        if len(open_B) != x.shape[0]:
            raise ConfigError(
                f"the prompt gate has {len(open_B)} rows, {self.name} got {x.shape[0]}",
                why="a part of the model was called with another batch than the model that holds the hooks",
                fix="call the whole model, or wrap the call in set_gate(model, rows)",
            )
        with torch.autocast(f.device.type, enabled=False):
            return self.changed(adapter_name, x, f, Turn(rows, open_B, learning))

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        return False

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        raise cannot_merge()

    def unmerge(self) -> None:
        raise CheckpointError(
            "nothing is merged", why="a LynX block is never merged in place", fix="call unload() to get the base back"
        )


def _is_partitioned(module: nn.Module) -> bool:
    """Whether DeepSpeed ZeRO-3 holds the weights: then all ranks gather them together, or wait for each other forever.

    A rank whose rows are all shut therefore runs its new weights as well, and throws the result away.
    """
    return any(hasattr(p, "ds_id") for p in module.parameters())


def cannot_merge() -> ExportError:
    return ExportError(
        "new experts are never merged into the base's weights in place",
        why="the base's weights do not change: what can be folded goes into wider modules beside them",
        fix="call merge_and_unload(), which folds where that is exact and says why where it is not, or use "
        "lynx_moe.export.export(model, processor, folder)",
    )
