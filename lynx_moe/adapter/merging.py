"""Folding an adapter into the base's own kinds of module, where that is the same function.

A block can be folded when nothing in it depends on the token or on the prompt:

    y = a f(x) + sum_e c_e expert_e(x)      with numbers a and c_e

Such a block is one gated FFN that is wider: gate and up projections stacked, down projections side by side, the frozen
one's times a and each expert's times c_e. A low-rank delta on a linear map is always such a case. Routing that really
chooses is not, and neither is a gate per token or per prompt; those go out by `lynx_moe.export`.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lynx_moe.adapter.block import LynxLayer
from lynx_moe.adapter.branch import Branch
from lynx_moe.adapter.gate_context import Runtime, runtime_of
from lynx_moe.adapter.gated import GatedLayer
from lynx_moe.adapter.projection import Delta
from lynx_moe.adapter.start import GATED_NAMES
from lynx_moe.errors import ExportError, FamilyError, NotFiniteError
from lynx_moe.families.ffn import describe_ffn
from lynx_moe.families.find import find_ffn_blocks
from lynx_moe.ops.mixes import MIXES

GATED_FFNS = (*GATED_NAMES, ("gate_up_proj", "down_proj"))


class _NotExact(Exception):
    """Why one module cannot be folded, in words that follow "because"."""


@torch.no_grad()
def fold(model: nn.Module, adapter_names: Sequence[str], *, check_finite: bool = False) -> dict[str, nn.Module]:
    """Name of each wrapped module to the plain module that equals it with these adapters, up to rounding.

    Everything is built beside the model, which stays as it is. Inside `set_gate(model, True)` or `False` the prompt
    gate counts as that; otherwise an adapter's own prompt gate must be "on" or "off".

    Raises:
        ExportError: a module cannot be folded exactly; the message has the reason of each.
        NotFiniteError: `check_finite`, and new weights hold NaN or infinity.
    """
    runtime = runtime_of(model)
    folded, refused = {}, {}
    for name, layer in model.named_modules():
        if isinstance(layer, GatedLayer):
            try:
                folded[name] = _fold_layer(layer, adapter_names, runtime)
            except _NotExact as reason:
                refused.setdefault(str(reason), []).append(layer.name)
    if refused:
        reasons = "; ".join(f"{_several(names)}: {reason}" for reason, names in refused.items())
        raise ExportError(
            "this adapter cannot be merged into modules of the base's kind without changing what it computes",
            why=reasons,
            fix="use lynx_moe.export.export(model, processor, folder) for a checkpoint that loads without this "
            "library, or unload() for the base as it was",
        )
    if check_finite:
        for name, module in folded.items():
            if not all(p.isfinite().all() for p in module.parameters()):
                raise NotFiniteError(
                    f"NaNs detected in the merged weights. The adapter {', '.join(adapter_names)} seems to be broken",
                    why=f"the weights for {name} are not all finite",
                    fix="load an earlier checkpoint of the adapter",
                )
    return folded


def put_in_place(base: nn.Module, folded: dict[str, nn.Module]) -> None:
    """Set the folded modules into the unloaded base, and its config's FFN width if every block now has the same."""
    widths_before = _widths(base)
    for name, module in folded.items():
        parent, _, child = name.rpartition(".")
        setattr(base.get_submodule(parent), child, module)
    widths = _widths(base)
    if widths == widths_before:
        return
    text_config = base.config.get_text_config()
    if len(widths) == 1 and {getattr(text_config, "intermediate_size", None)} == widths_before:
        text_config.intermediate_size = widths.pop()
    else:
        warnings.warn(
            f"the merged FFNs are {', '.join(map(str, sorted(widths)))} wide in different layers, which the base's "
            "config cannot say: use the model as it is here, but do not save it with save_pretrained. Adapters on "
            "layers='all' give one width, and lynx_moe.export writes any adapter.",
            UserWarning,
            stacklevel=2,
        )


def _widths(base: nn.Module) -> set[int]:
    """Widths of the decoder's FFNs; empty for a decoder whose structure cannot be read."""
    try:
        return {describe_ffn(block.frozen(base)).ffn_width for block in find_ffn_blocks(base)}
    except FamilyError:
        return set()


def _fold_layer(layer: GatedLayer, adapter_names: Sequence[str], runtime: Runtime) -> nn.Module:
    module = layer.base_layer
    for adapter_name in adapter_names:
        if adapter_name not in layer.adapters:
            continue
        new = layer.adapters[adapter_name]
        # What changes nothing changes nothing whatever the prompt gate says, so the gate is asked second.
        if _changes_nothing(new) or not _is_open(adapter_name, runtime):
            continue
        if isinstance(new, Delta):
            module = _with_delta(module, new)
        elif isinstance(layer, LynxLayer) and layer.reads_elsewhere:
            raise _NotExact("the FFN is spread over its layer and has no gate projection")
        else:
            module = _wider(module, new, *_constant_mix(new))
    return module


def _changes_nothing(new: Branch | Delta) -> bool:
    if isinstance(new, Delta):
        return not new.up_OR.any()
    return MIXES.get(new.mix).gate != "block" and not new.down_EDF.any()


def _is_open(adapter_name: str, runtime: Runtime) -> bool:
    if isinstance(runtime.forced, Tensor):
        raise _NotExact("set_gate decides row by row")
    gate = runtime.forced if runtime.forced is not None else runtime.modes[adapter_name]
    if gate == "auto":
        raise _NotExact("prompt_gate='auto' decides per prompt (merge inside set_gate(model, True) to have it open)")
    return gate in (True, "on")


def _constant_mix(branch: Branch) -> tuple[Tensor, Tensor]:
    """The numbers `a` and `c_e (E,)`, float32, of a branch that treats every token alike."""
    num_experts = len(branch.router_ED)
    device = branch.router_ED.device
    share = scale = torch.ones((), device=device)
    gate = MIXES.get(branch.mix).gate
    if gate == "block":
        share = branch.alpha_logit.float().sigmoid()[0]
        scale = 1 - share
    elif gate == "token":
        if branch.token_gate_D.any():
            raise _NotExact("mix='token' has a gate of its own for each token")
        scale = branch.token_gate_bias.float().sigmoid()[0]
    if not branch.down_EDF.any():
        return share, torch.zeros(num_experts, device=device)
    if branch.router_ED.any() or branch.top_k < num_experts:
        if num_experts > 1:
            raise _NotExact("a router chooses and weighs experts for each token")
        if gate == "weights":
            raise _NotExact("under mix='additive' the one expert is weighted for each token")
    weights_TK, _ = MIXES.get(branch.mix).route(torch.zeros(1, num_experts, device=device), branch.top_k)
    return share, scale * weights_TK[0]


def _with_delta(linear: nn.Module, delta: Delta) -> nn.Linear:
    if type(linear) is not nn.Linear:
        raise _NotExact(f"the wrapped map is a {type(linear).__name__}, and only a plain nn.Linear can be added to")
    weight = linear.weight.float() + delta.up_OR.float() @ delta.down_RD.float()
    return _linear(weight, linear.bias, like=linear)


def _wider(ffn: nn.Module, branch: Branch, share: Tensor, share_E: Tensor) -> nn.Module:
    """A module of the same class as `ffn`, wider by all experts of `branch`."""
    names = next((n for n in GATED_FFNS if all(type(getattr(ffn, part, None)) is nn.Linear for part in n)), None)
    if names is None:
        raise _NotExact(f"{type(ffn).__name__} is no gated FFN of plain nn.Linear maps")
    *first, down = (getattr(ffn, part) for part in names)
    new_gate_ND, new_up_ND = (part_EFD.flatten(0, 1).float() for part_EFD in branch.gate_up_EFD.chunk(2, dim=1))
    new_down_DN = (branch.down_EDF.float() * share_E[:, None, None]).transpose(0, 1).flatten(1)
    gate_FD, up_FD = first[0].weight.float().chunk(2) if len(first) == 1 else (m.weight.float() for m in first)
    stacks = [torch.cat([gate_FD, new_gate_ND]), torch.cat([up_FD, new_up_ND])]
    if len(first) == 1:
        stacks = [torch.cat(stacks)]
    parts = {
        part: _linear(weight, _longer_bias(old, len(new_gate_ND), fused=len(first) == 1), like=old)
        for part, weight, old in zip(names, stacks, first, strict=False)
    }
    bias = None if down.bias is None else down.bias.float() * share
    parts[names[-1]] = _linear(torch.cat([down.weight.float() * share, new_down_DN], dim=1), bias, like=down)

    # The same class with other linear maps: all else (activation, config) is shared with the base's own module.
    wide = copy.copy(ffn)
    wide._modules = {**ffn._modules, **parts}
    if hasattr(wide, "intermediate_size"):
        wide.intermediate_size = parts[names[-1]].in_features
    _prove(ffn, wide, branch, share, share_E)
    return wide


def _prove(ffn: nn.Module, wide: nn.Module, branch: Branch, share: Tensor, share_E: Tensor) -> None:
    """Run both on random input: an FFN that does more than its three projections say must not pass for one."""
    weight = wide.down_proj.weight if hasattr(wide, "down_proj") else wide.w2.weight
    draw = torch.Generator().manual_seed(0)
    x_TD = torch.randn(1, 8, weight.shape[0], generator=draw).to(weight)
    gate_up_TEF = torch.einsum("btd,efd->btef", x_TD.float(), branch.gate_up_EFD.float())
    gate_TEF, up_TEF = gate_up_TEF.chunk(2, dim=-1)
    hidden_TEF = branch.activation(gate_TEF) * up_TEF * share_E[:, None]
    f_TD, y_TD = ffn(x_TD), wide(x_TD)
    if not isinstance(f_TD, Tensor):
        raise _NotExact(f"{type(ffn).__name__} returns more than its output")
    expected = share * f_TD.float() + torch.einsum("btef,edf->btd", hidden_TEF, branch.down_EDF.float())
    error, size = (y_TD.float() - expected).abs().max(), expected.abs().max()
    # Our choice: far above the rounding of the widest FFNs, far below what another activation or scale would do.
    tolerance = max(1e-5, 16 * torch.finfo(weight.dtype).eps)
    if not error <= tolerance * size.clamp_min(1e-6) and expected.isfinite().all():
        raise _NotExact(f"{type(ffn).__name__} computes something else than down(act(gate(x)) * up(x))")


def _longer_bias(old: nn.Linear, by: int, fused: bool) -> Tensor | None:
    if old.bias is None:
        return None
    return torch.cat([F.pad(part, (0, by)) for part in (old.bias.chunk(2) if fused else (old.bias,))])


def _linear(weight: Tensor, bias: Tensor | None, like: nn.Linear) -> nn.Linear:
    """A frozen linear map in the dtype and mode of `like`. Computed in float32, rounded once, here."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(weight.to(like.weight), requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias.to(like.weight), requires_grad=False)
    return linear.train(like.training)


def _several(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
