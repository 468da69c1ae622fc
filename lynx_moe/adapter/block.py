"""The block: frozen experts, gate and new experts, in place of one feed-forward position.

        x ──┬── frozen(x) ───────────────── f ──┐
            │                                   ├── where(prompt gate, mix(f, n), f) ── y
            └── router ── top-k experts ── n ───┘

`frozen` is the base's own module, called as it is: also an MoE block, a quantised FFN, or another adapter's layer.
Where a layer spreads its FFN (OPT's fc1 and fc2), the last linear map is the wrapped module, and x is what the first
one reads.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lynx_moe.adapter.branch import Branch, BranchOutput
from lynx_moe.adapter.gate_context import Runtime
from lynx_moe.adapter.gated import GatedLayer, Turn
from lynx_moe.ops.attach import attach


class LynxLayer(GatedLayer):
    """One wrapped feed-forward position with a branch of new experts per adapter.

    Attributes:
        lynx_branch: adapter name to its `Branch`.
        lynx_prompt_gate: adapter name to its prompt gate's head; only in the first block an adapter wraps.
    """

    adapter_layer_names = ("lynx_branch",)
    # Not in adapter_layer_names: PEFT makes those trainable, and the head is fitted by itself.
    other_param_names = ("lynx_prompt_gate",)

    def __init__(self, base_layer: nn.Module, *, name: str, runtime: Runtime):
        super().__init__(base_layer, name=name, runtime=runtime)
        self.lynx_prompt_gate = nn.ModuleDict()
        self._first: RemovableHandle | None = None
        self._seen: Tensor | None = None

    def read_from(self, first: nn.Module) -> None:
        """From now on the new experts read what `first`, the FFN's first linear map, is given."""
        self._first = first.register_forward_pre_hook(self._see)

    @property
    def reads_elsewhere(self) -> bool:
        """Whether the wrapped module is only the last linear map of an FFN that is spread over its layer."""
        return self._first is not None

    def let_go(self) -> None:
        """Undo `read_from`."""
        if self._first is not None:
            self._first.remove()

    def _see(self, first: nn.Module, args: tuple[Tensor, ...]) -> None:
        self._seen = args[0]

    def read(self, x: Tensor) -> Tensor:
        if self._first is None:
            return x
        seen, self._seen = self._seen, None  # kept no longer than one forward: it may be large
        return seen

    def changed(self, adapter_name: str, x: Tensor, f: Tensor, turn: Turn) -> Tensor:
        branch = self.lynx_branch[adapter_name]
        out = branch.speak(x.reshape(-1, x.shape[-1]), f.reshape(-1, f.shape[-1]))
        y = turn.keep_shut_rows(out.y_TD.view(f.shape), f)
        if turn.learning or self.runtime.recorder is not None:
            y = self._account(adapter_name, branch, out, y, turn)
        return y

    def _account(self, adapter_name: str, branch: Branch, out: BranchOutput, y: Tensor, turn: Turn) -> Tensor:
        """Attach the penalties to the output while learning, and show everything to a recorder."""
        weight_T = self._weights(y, turn.open_B)
        costs = branch.costs(out, weight_T)
        if turn.learning and costs:
            y = attach(y, sum(branch.cost_weights[name] * cost for name, cost in costs.items()), self.runtime)
        if self.runtime.recorder is not None:
            alone = len(self.runtime.speaking(self.active_adapters)) == 1
            key = self.name if alone else f"{self.name}@{adapter_name}"
            self.runtime.recorder(key, out, turn.open_B, costs, weight_T)
        return y

    def _weights(self, y: Tensor, open_B: Tensor) -> Tensor:
        """1.0 per token that counts for penalties: its row is open and it is no padding. `(T,)`"""
        counted = open_B.view(-1, *[1] * (y.ndim - 2)).expand(y.shape[:-1])
        valid_BL = self.runtime.valid_BL
        if valid_BL is not None and valid_BL.numel() == counted.numel():  # a decoding step sees one token of them
            counted = counted & valid_BL.to(counted.device).view(counted.shape)
        return counted.reshape(-1).float()


class PosingLayer(LynxLayer):
    """A block in a decoder layer that asks of what class it is: it is told the frozen one's."""

    @property
    def __class__(self) -> type:
        frozen = self.__dict__.get("_modules", {}).get("base_layer")
        return type(self) if frozen is None else frozen.__class__
