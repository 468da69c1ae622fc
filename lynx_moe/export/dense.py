"""Route "dense": new experts that treat every token alike become extra width of the base's own FFNs.

    y = a f(x) + sum_e c_e expert_e(x)  with numbers a and c_e  =  one FFN of the same form, F + N wide

The result is the base's own class and architecture with a larger FFN width in its config, and no code. What folds is
decided by `lynx_moe.adapter.merging`, which `merge_and_unload` stands on too. Here all FFNs that share a width in the
config are made equally wide with zeros, and it is noted where the base's bytes lie in the wider matrices.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from lynx_moe.adapter.gate_context import set_gate
from lynx_moe.adapter.merging import additions, fold, wider
from lynx_moe.adapter.projection import Delta
from lynx_moe.adapter.widening import Addition, Maps, NotExact, maps_of
from lynx_moe.errors import ExportError
from lynx_moe.export.built import Built, Fold
from lynx_moe.export.promise import Promise
from lynx_moe.export.read import Adapted
from lynx_moe.families.ffn import SplitFfn, of_the_base
from lynx_moe.families.find import FfnBlock
from lynx_moe.families.wide_config import WidthField, wider_configs

BOUND = 1e-5  # of the largest logit, in float32: another order of additions


@dataclass(frozen=True)
class Ffn:
    """One frozen FFN of the base.

    Attributes:
        module: the base's own, or a `SplitFfn` where it is spread over its layer.
        names: of its linear maps in the base, in the order of `maps`, the last one last.
        width: what it is to become, itself included.
    """

    module: nn.Module
    maps: Maps
    names: tuple[str, ...]
    width: int

    @property
    def own_width(self) -> int:
        return getattr(self.module, self.maps.last).in_features


@dataclass(frozen=True)
class Layout:
    """How wide each FFN becomes, and why.

    Attributes:
        field: the config's field that says it; None when nothing gets wider.
        ffns: by the name of the block, or of the module where there is none: all that `field` sizes.
        news: what the adapter adds to each wrapped module.
    """

    field: WidthField | None
    ffns: dict[str, Ffn]
    news: dict[str, list[Addition | Delta]]

    def share(self, name: str) -> Tensor | None:
        """What the frozen output of a block is multiplied by."""
        return next((new.share for new in self.news.get(name, ()) if isinstance(new, Addition)), None)


def refusal(adapted: Adapted) -> str | None:
    """Why this model is no wider FFN, or None when it is one exactly."""
    if adapted.quantised:
        return "the base's weights are quantised, and a wider FFN needs plain matrices"
    if adapted.gate == "off":
        return "the prompt gate is off, so the export would be the base itself"
    try:
        _prove_each_kind(layout(adapted))
    except NotExact as reason:
        return str(reason)
    return None


def promise(adapted: Adapted) -> Promise:
    """What the wider model keeps of the live one."""
    found, name = layout(adapted), type(adapted.base).__name__
    served = {"transformers": "yes", "vllm": f"yes, by source, where it serves {name}", "sglang": "unknown"}
    if not any(found.news.values()):
        keeps = "the base bit for bit: the new experts say nothing yet"
        return Promise(name, "bitwise", 0.0, keeps, _costs(adapted, found), served)
    keeps = "the same function wherever the new experts speak, up to the rounding of another order of additions"
    if adapted.config.prompt_gate == "auto":
        keeps = "the live model with its gate on, up to rounding; there is no per-prompt gate"
    return Promise(name, "rounding", BOUND, keeps, _costs(adapted, found), served)


@torch.no_grad()
def build(adapted: Adapted, folder: Path) -> Built:
    """The base's own class with wider FFNs; tensors that keep their bytes are the live ones. Writes nothing.

    Raises:
        ExportError: the model is no wider FFN, or an FFN turned out to compute more than its linear maps say.
    """
    config = copy.deepcopy(adapted.base.config)
    try:
        found = layout(adapted)
        with set_gate(adapted.base, True):
            widths = {name: ffn.width for name, ffn in found.ffns.items()}
            modules = fold(adapted.base, [adapted.adapter_name], widths=widths)
        for name, ffn in found.ffns.items():
            if name not in adapted.blocks:
                wide = wider(ffn.module, None, ffn.width)
                parts = (wide.first, wide.last) if isinstance(wide, SplitFfn) else (wide,)
                modules |= dict(zip(ffn.names if len(parts) == 2 else (name,), parts, strict=True))
    except NotExact as reason:
        raise ExportError(
            "this model cannot be folded into wider FFNs", why=str(reason), fix="export with route='auto'"
        ) from reason
    if found.field is not None:
        found.field.set(config)
    base = adapted.base_state()
    tensors = {**base, **{f"{name}.{leaf}": t for name, m in modules.items() for leaf, t in m.state_dict().items()}}
    folds: dict[str, Fold | str] = {}
    for name, ffn in found.ffns.items():
        folds |= _folds(ffn, found.share(name), base)
    for name in adapted.projections:
        if found.news[name]:
            folds[f"{name}.weight"] = Fold(rank=adapted.config.attention_rank)
    origin = {name: name for name in base}
    return Built(config, type(adapted.base), tensors, origin, folds)


@torch.no_grad()
def layout(adapted: Adapted) -> Layout:
    """Widths and the config's field for them, from structure and weights alone.

    Raises:
        NotExact: the new experts are no width, or no config can say how wide the FFNs become.
    """
    with set_gate(adapted.base, True):
        news = additions(adapted.base, [adapted.adapter_name])
    lost = sorted(set(adapted.blocks) - set(adapted.places))
    if lost:
        raise NotExact(f"{lost[0]} is no feed-forward position that the decoder's structure shows")
    speaking = [name for name in adapted.blocks if news[name]]
    ffns = {name: _ffn(adapted, adapted.places[name]) for name in speaking}
    before = {adapted.places[name].layer: ffn.own_width for name, ffn in ffns.items()}
    after = {adapted.places[n].layer: ffn.own_width + sum(new.width for new in news[n]) for n, ffn in ffns.items()}
    if after == before:
        return Layout(None, ffns, news)
    shapes = {name: tensor.shape for name, tensor in adapted.base_state().items()}
    why = "no field of the config holds the width of these FFNs"
    for field, would_be in wider_configs(adapted.base, before, after):
        if would_be.keys() != shapes.keys():
            continue
        changed = {name for name in shapes if would_be[name] != shapes[name]}
        sized = _sized(adapted, changed, would_be)
        if any(name not in sized or sized[name].width < after[adapted.places[name].layer] for name in speaking):
            continue
        others = {key for key in changed if not any(key.rpartition(".")[0] in ffn.names for ffn in sized.values())}
        if not others:
            return Layout(field, sized, news)
        why = f"config.{field} also sizes {min(others)}, which is no FFN that zeros can fill"
    raise NotExact(why)


def _sized(adapted: Adapted, changed: set[str], would_be: dict[str, torch.Size]) -> dict[str, Ffn]:
    """The FFNs whose last linear map is among the tensors that change: the decoder's, and those of an encoder."""
    ffns = {}
    for name, place in adapted.places.items():
        if f"{_last_name(adapted, place)}.weight" in changed:
            ffns[name] = _ffn(adapted, place, would_be)
    taken, modules = {name for ffn in ffns.values() for name in ffn.names}, dict(of_the_base(adapted.base))
    for owner in sorted({key.rpartition(".")[0].rpartition(".")[0] for key in changed}):
        try:
            maps = maps_of(module := modules[owner])
        except (KeyError, NotExact):
            continue
        names = tuple(f"{owner}.{part}" for part in (*maps.first, maps.last))
        if not taken & set(names) and f"{names[-1]}.weight" in changed:
            ffns[owner] = Ffn(module, maps, names, would_be[f"{names[-1]}.weight"][1])
    return ffns


def _last_name(adapted: Adapted, place: FfnBlock) -> str:
    if place.reads is not None:
        return place.name
    try:
        return f"{place.name}.{maps_of(place.frozen(adapted.base)).last}"
    except NotExact:
        return ""


def _ffn(adapted: Adapted, place: FfnBlock, would_be: dict[str, torch.Size] | None = None) -> Ffn:
    module = place.frozen(adapted.base)
    maps = maps_of(module)
    names = tuple(f"{place.name}.{part}" for part in (*maps.first, maps.last))
    if isinstance(module, SplitFfn):
        names = (place.reads, place.name)
    width = getattr(module, maps.last).in_features if would_be is None else would_be[f"{names[-1]}.weight"][1]
    return Ffn(module, maps, names, width)


def _prove_each_kind(found: Layout) -> None:
    """One FFN of each class is made and run, so that the plan does not promise what `build` would refuse."""
    proven = set()
    for name, ffn in found.ffns.items():
        new = next(iter(found.news.get(name, ())), None)
        kind = (type(ffn.module), new is None)
        if kind not in proven:
            proven.add(kind)
            with torch.no_grad():
                wider(ffn.module, new, ffn.width)


def _folds(ffn: Ffn, share: Tensor | None, base: dict[str, Tensor]) -> dict[str, Fold | str]:
    """What is done to the tensors of one FFN, and where the base's lie in them."""
    folds: dict[str, Fold | str] = {}
    for name in ffn.names:
        is_last = name == ffn.names[-1]
        for leaf in ("weight", "bias"):
            key = f"{name}.{leaf}"
            scaled = is_last and share is not None
            spans: tuple[tuple[int, int], ...] = ()
            if ffn.width != ffn.own_width and (leaf == "weight" or not is_last):
                halves = 1 if is_last else ffn.maps.halves
                spans = tuple((half * ffn.width, half * ffn.width + ffn.own_width) for half in range(halves))
            if key in base and (spans or scaled):
                # On the meta device alpha has no value.
                known = scaled and not share.is_meta
                fold = Fold(factor=share.item() if known else 1.0, axis=int(is_last), spans=spans)
                folds[key] = "times alpha" if scaled and not known else fold
    return folds


def _costs(adapted: Adapted, found: Layout) -> tuple[str, ...]:
    costs = []
    if adapted.config.prompt_gate == "auto":
        costs.append("the gate ships on: measure retention on the exported model, not on the adapter")
    if found.field is not None:
        value = found.field.value
        wide = str(value) if isinstance(value, int) else f"up to {max(value)}"
        costs.append(f"config.{found.field} becomes {wide}, which every token computes")
    filled = len(set(found.ffns) - set(adapted.blocks))
    if filled:
        costs.append(f"{filled} FFNs without new experts are filled with zeros to the same width")
    if any(found.share(name) is not None for name in found.ffns):
        costs.append("alpha is folded into the last map of each block: those are not the base's bytes any more")
    if any(found.news[name] for name in adapted.projections):
        costs.append(f"deltas are added into {len(adapted.projections)} attention matrices: not the base's bytes")
    return tuple(costs)
