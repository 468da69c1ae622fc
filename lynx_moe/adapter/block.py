"""The block: frozen experts, gate and new experts, in place of one feed-forward position.

        x ──┬── frozen(x) ───────────────── f ──┐
            │                                   ├── where(prompt gate, mix(f, n), f) ── y
            └── router ── top-k experts ── n ───┘

`frozen` is the base's own module, called as it is: also an MoE block, a quantised FFN, or another adapter's layer.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from lynx_moe.adapter.branch import Branch, BranchOutput
from lynx_moe.adapter.gate_context import Rows, Runtime
from lynx_moe.errors import CheckpointError, ConfigError, ExportError
from lynx_moe.ops.attach import attach


class LynxLayer(nn.Module, BaseTunerLayer):
    """One wrapped feed-forward position with a branch of new experts per adapter.

    Attributes:
        lynx_branch: adapter name to its `Branch`.
        lynx_prompt_gate: adapter name to its prompt gate's head; only in the first block an adapter wraps.
    """

    adapter_layer_names = ("lynx_branch",)
    # Not in adapter_layer_names: PEFT makes those trainable, and the head is fitted by itself.
    other_param_names = ("lynx_prompt_gate",)

    def __init__(self, base_layer: nn.Module, *, name: str, runtime: Runtime):
        super().__init__()
        self.base_layer = base_layer
        self.lynx_branch = nn.ModuleDict()
        self.lynx_prompt_gate = nn.ModuleDict()
        self.name = name
        self.runtime = runtime
        self._disable_adapters = False
        self.merged_adapters = []

    def add_branch(self, adapter_name: str, branch: Branch) -> None:
        self.lynx_branch[adapter_name] = branch

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        result = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters:
            return result
        f = result[0] if isinstance(result, tuple) else result
        for adapter_name in self.active_adapters:
            if adapter_name in self.lynx_branch:
                f = self._speak(adapter_name, x, f)
        return (f, *result[1:]) if isinstance(result, tuple) else f

    def _speak(self, adapter_name: str, x: Tensor, f: Tensor) -> Tensor:
        rows = self.runtime.rows_of(adapter_name)
        learning = self.training and torch.is_grad_enabled()
        if not rows.any_open and not learning:
            return f
        # While learning the experts run even if every row is shut: each trainable tensor gets a gradient (zero here)
        # on every step and on every rank, which sharded training waits for.
        if rows.open_B is None:
            open_B = torch.full((x.shape[0],), rows.all_open, device=f.device)
        else:
            open_B = rows.open_B.to(f.device)
        if len(open_B) != x.shape[0]:
            raise ConfigError(
                f"the prompt gate has {len(open_B)} rows, block {self.name} got {x.shape[0]}",
                why="a part of the model was called with another batch than the model that holds the hooks",
                fix="call the whole model, or wrap the call in set_gate(model, rows)",
            )

        with torch.autocast(f.device.type, enabled=False):
            branch = self.lynx_branch[adapter_name]
            out = branch(x.reshape(-1, x.shape[-1]), f.reshape(-1, f.shape[-1]))
            y = out.y_TD.view(f.shape)
            if not rows.all_open:
                y = torch.where(open_B.view(-1, *[1] * (f.ndim - 1)), y, f)
            if learning or self.runtime.recorder is not None:
                y = self._account(adapter_name, branch, out, y, open_B, rows, learning)
        return y

    def _account(
        self,
        adapter_name: str,
        branch: Branch,
        out: BranchOutput,
        y: Tensor,
        open_B: Tensor,
        rows: Rows,
        learning: bool,
    ) -> Tensor:
        """Attach the penalties to the output while learning, and show everything to a recorder."""
        weight_T = self._weights(y, open_B)
        costs = branch.costs(out, weight_T)
        if learning and costs:
            y = attach(y, sum(branch.cost_weights[name] * cost for name, cost in costs.items()), self.runtime)
        if self.runtime.recorder is not None:
            key = self.name if len(self.active_adapters) == 1 else f"{self.name}@{adapter_name}"
            self.runtime.recorder(key, out, open_B, costs)
        return y

    def _weights(self, y: Tensor, open_B: Tensor) -> Tensor:
        """1.0 per token that counts for penalties: its row is open and it is no padding. `(T,)`"""
        counted = open_B.view(-1, *[1] * (y.ndim - 2)).expand(y.shape[:-1])
        valid_BL = self.runtime.valid_BL
        if valid_BL is not None and valid_BL.shape == counted.shape:
            counted = counted & valid_BL.to(counted.device)
        return counted.reshape(-1).float()

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        return False

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        raise cannot_merge()

    def unmerge(self) -> None:
        raise CheckpointError(
            "nothing is merged", why="a LynX block is never merged in place", fix="call unload() to get the base back"
        )


def cannot_merge() -> ExportError:
    return ExportError(
        "new experts cannot be merged into the base's weights",
        why="they are chosen per token by a router, so no single FFN equals frozen and new experts together",
        fix="use lynx_moe.export.export(model, processor, folder) for a checkpoint that loads without this library, "
        "or unload() for the base as it was",
    )
