"""Folding an adapter into the base's own kinds of module, where that is the same function.

A block can be folded when nothing in it depends on the token or on the prompt:

    y = a f(x) + sum_e c_e expert_e(x)      with numbers a and c_e

Such a block is one FFN that is wider (`widening`): the frozen one's last map times a, each expert's times c_e. A
low-rank delta on a linear map is always such a case. Routing that really chooses is not, and neither is a gate per
token or per prompt; those go out by `lynx_moe.export`.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from lynx_moe.adapter.block import LynxLayer
from lynx_moe.adapter.branch import Branch
from lynx_moe.adapter.gate_context import Runtime, runtime_of
from lynx_moe.adapter.gated import GatedLayer
from lynx_moe.adapter.projection import Delta
from lynx_moe.adapter.widening import Addition, NotExact, fits, linear_of, prove, prove_spread, widened, with_maps
from lynx_moe.errors import ExportError, FamilyError, NotFiniteError
from lynx_moe.families.ffn import SplitFfn, describe_ffn
from lynx_moe.families.find import FfnBlock, find_ffn_blocks
from lynx_moe.families.wide_config import wider_configs
from lynx_moe.ops.mixes import MIXES


@torch.no_grad()
def fold(
    model: nn.Module,
    adapter_names: Sequence[str],
    *,
    widths: Mapping[str, int] | None = None,
    check_finite: bool = False,
) -> dict[str, nn.Module]:
    """Name of each wrapped module to the plain module that equals it with these adapters, up to rounding.

    Where a layer spreads its FFN, its first linear map is there too. Everything is built beside the model, which stays
    as it is. Inside `set_gate(model, True)` or `False` the prompt gate counts as that; otherwise an adapter's own
    prompt gate must be "on" or "off".

    Args:
        widths: how wide FFNs are to be, by the name of their block: what is missing is filled with zeros.

    Raises:
        ExportError: a module cannot be folded exactly; the message has the reason of each.
        NotFiniteError: `check_finite`, and new weights hold NaN or infinity.
    """
    try:
        found, folded = additions(model, adapter_names), {}
        places = _places(model)
        for name, news in found.items():
            folded |= _folded(model, name, news, places, (widths or {}).get(name))
    except NotExact as reasons:
        raise ExportError(
            "this adapter cannot be merged into modules of the base's kind without changing what it computes",
            why=str(reasons),
            fix="use lynx_moe.export.export(model, processor, folder) for a checkpoint that loads without this "
            "library, or unload() for the base as it was",
        ) from None
    if check_finite:
        for name, module in folded.items():
            if not all(p.isfinite().all() for p in module.parameters()):
                raise NotFiniteError(
                    f"NaNs detected in the merged weights. The adapter {', '.join(adapter_names)} seems to be broken",
                    why=f"the weights for {name} are not all finite",
                    fix="load an earlier checkpoint of the adapter",
                )
    return folded


@torch.no_grad()
def additions(model: nn.Module, adapter_names: Sequence[str]) -> dict[str, list[Addition | Delta]]:
    """What these adapters add to each wrapped module, by its name in the base; nothing is built.

    A list is empty where they change nothing. On the meta device, where weights have no values, all of them speak.

    Raises:
        NotExact: somewhere that is no width and no matrix; every reason, with the modules it holds for.
    """
    runtime, places = runtime_of(model), _places(model)
    found, refused = {}, {}
    for name, layer in model.named_modules():
        if not isinstance(layer, GatedLayer):
            continue
        found[name] = []
        for adapter_name in adapter_names:
            if adapter_name not in layer.adapters:
                continue
            new = layer.adapters[adapter_name]
            try:
                # What changes nothing changes nothing whatever the prompt gate says, so the gate is asked second.
                if _changes_nothing(new) or not _is_open(adapter_name, runtime):
                    continue
                if isinstance(new, Branch):
                    new = _addition(new)
                    fits(_frozen(model, name, layer, places), new.branch)
                found[name].append(new)
            except NotExact as reason:
                refused.setdefault(str(reason), []).append(name)
    if refused:
        raise NotExact("; ".join(f"{_several(names)}: {reason}" for reason, names in refused.items()))
    return found


def put_in_place(base: nn.Module, folded: dict[str, nn.Module]) -> None:
    """Set the folded modules into the unloaded base, and say their width in its config, if a config can."""
    before = _widths(base)
    for name, module in folded.items():
        parent, _, child = name.rpartition(".")
        setattr(base.get_submodule(parent), child, module)
    after = _widths(base)
    if after == before:
        return
    shapes = {name: tensor.shape for name, tensor in base.state_dict().items()}
    for field, would_be in wider_configs(base, before, after):
        if would_be == shapes:
            field.set(base.config)
            return
    warnings.warn(
        f"the merged FFNs are {', '.join(map(str, sorted(set(after.values()))))} wide in different layers, which the "
        "base's config cannot say: use the model as it is here, but do not save it with save_pretrained. Adapters on "
        "layers='all' give one width, and lynx_moe.export writes any adapter.",
        UserWarning,
        stacklevel=2,
    )


def _widths(base: nn.Module) -> dict[int, int]:
    """Decoder layer to the width of its FFN; empty for a decoder whose structure cannot be read."""
    return {place.layer: describe_ffn(place.frozen(base)).ffn_width for place in _places(base).values()}


def _places(model: nn.Module) -> dict[str, FfnBlock]:
    try:
        return {block.name: block for block in find_ffn_blocks(model)}
    except FamilyError:
        return {}


def _frozen(model: nn.Module, name: str, layer: LynxLayer, places: Mapping[str, FfnBlock]) -> nn.Module:
    if not layer.reads_elsewhere:
        return layer.base_layer
    if name not in places:
        raise NotExact("the FFN is spread over its layer, and where it begins is not known")
    split = places[name].frozen(model)
    prove_spread(model.get_submodule(places[name].inside), split)
    return split


def _folded(
    model: nn.Module, name: str, news: list[Addition | Delta], places: Mapping[str, FfnBlock], width: int | None
) -> dict[str, nn.Module]:
    layer = model.get_submodule(name)
    if not isinstance(layer, LynxLayer):
        linear = layer.base_layer
        for delta in news:
            linear = _with_delta(linear, delta)
        return {name: linear}
    if not news and width is None:
        return {name: layer.base_layer}
    ffn = _frozen(model, name, layer, places)
    # The last addition (or, without any, none) is padded: zeros stand at the end.
    for index, addition in enumerate(news or [None]):
        ffn = wider(ffn, addition, width if index >= len(news) - 1 else None)
    return {places[name].reads: ffn.first, name: ffn.last} if isinstance(ffn, SplitFfn) else {name: ffn}


def wider(ffn: nn.Module, addition: Addition | None, width: int | None) -> nn.Module:
    """An FFN of the same class with the addition and padded to `width`, proven on random input where it can be run.

    Raises:
        NotExact: it would compute something else.
    """
    parts = widened(ffn, addition, width)
    if isinstance(ffn, SplitFfn):
        return SplitFfn(parts["first"], parts["last"], ffn.act)
    wide = with_maps(ffn, parts)
    prove(ffn, wide, addition)
    return wide


def _changes_nothing(new: Branch | Delta) -> bool:
    if isinstance(new, Delta):
        return not _speaks(new.up_OR)
    return MIXES.get(new.mix).gate != "block" and not _speaks(new.down_EDF)


def _is_open(adapter_name: str, runtime: Runtime) -> bool:
    if isinstance(runtime.forced, Tensor):
        raise NotExact("set_gate decides row by row")
    gate = runtime.forced if runtime.forced is not None else runtime.modes[adapter_name]
    if gate == "auto":
        raise NotExact("prompt_gate='auto' decides per prompt (merge inside set_gate(model, True) to have it open)")
    return gate in (True, "on")


def _addition(branch: Branch) -> Addition:
    """A branch that treats every token alike, as the numbers a and c_e.

    That is so when every expert that says something has the same weight whatever the token: no choice is made, and the
    router's scores do not differ (softmax) or are zero (sigmoid); or when all experts are one and the same, so that
    weights that sum to one choose and weigh nothing. Told from the weights alone, never from what some data did.
    """
    num_experts, mix = len(branch.router_ED), MIXES.get(branch.mix)
    share, scale = None, torch.ones((), device=branch.router_ED.device)
    if mix.gate == "block":
        share = branch.alpha_logit.float().sigmoid()[0]
        scale = 1 - share
    elif mix.gate == "token":
        if _speaks(branch.token_gate_D):
            raise NotExact("mix='token' has a gate of its own for each token")
        scale = branch.token_gate_bias.float().sigmoid()[0]
    says_E = torch.ones(num_experts, dtype=torch.bool, device=scale.device)
    if not branch.down_EDF.is_meta:
        says_E = branch.down_EDF.flatten(1).any(dim=1)
        if not says_E.any():
            return Addition(branch, share, torch.zeros(num_experts, device=scale.device))
    sums_to_one = mix.gate != "weights"
    if sums_to_one and _alike(branch.gate_up_EFD) and _alike(branch.down_EDF):
        share_E = torch.zeros(num_experts, device=scale.device)
        share_E[0] = 1
        return Addition(branch, share, scale * share_E)
    scores_ED = branch.router_ED - branch.router_ED[:1] if sums_to_one else branch.router_ED * says_E[:, None]
    if branch.top_k < num_experts or _speaks(scores_ED):
        if num_experts > 1:
            raise NotExact("a router chooses and weighs experts for each token")
        raise NotExact("under mix='additive' the one expert is weighted for each token")
    weights_TK, _ = mix.route(torch.zeros(1, num_experts, device=scale.device), branch.top_k)
    return Addition(branch, share, scale * weights_TK[0] * says_E)


def _speaks(tensor: Tensor) -> bool:
    """Whether anything in it is not zero; without values it may be anything."""
    return tensor.numel() > 0 and (tensor.is_meta or bool(tensor.any()))


def _alike(stacked: Tensor) -> bool:
    return len(stacked) == 1 or (not stacked.is_meta and bool((stacked == stacked[:1]).all()))


def _with_delta(linear: nn.Module, delta: Delta) -> nn.Linear:
    if type(linear) is not nn.Linear:
        raise NotExact(f"the wrapped map is a {type(linear).__name__}, and only a plain nn.Linear can be added to")
    weight = linear.weight.float() + delta.up_OR.float() @ delta.down_RD.float()
    return linear_of(weight, linear.bias, like=linear)


def _several(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
