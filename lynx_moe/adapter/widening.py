"""A frozen FFN made wider: new experts that treat every token alike are more rows and columns of its linear maps.

    gated   down(act(gate x) * up x)     gate and up get rows, also where both lie in one map; down gets columns
    plain   last(act(first x))           first gets rows, last gets columns

Rows and columns of zeros change nothing, so that any FFN can be as wide as its neighbours. What the base had keeps its
bytes, but for a share that scales the last map. Where a layer spreads its FFN the two maps are looked at as one.

D width, E experts, F expert width, N new rows (all live experts one after another).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lynx_moe.adapter.branch import Branch
from lynx_moe.adapter.start import GATED_NAMES
from lynx_moe.families.ffn import SplitFfn, describe_ffn
from lynx_moe.ops.experts import is_gated


class NotExact(Exception):
    """Why one module cannot be folded, in words that follow "because"."""


@dataclass(frozen=True)
class Maps:
    """An FFN's linear maps by attribute: gate and up, the two in one, or the one of a plain FFN; and the last."""

    first: tuple[str, ...]
    last: str
    gated: bool

    @property
    def halves(self) -> int:
        """How many maps lie in each of `first`."""
        return 2 if self.gated and len(self.first) == 1 else 1


@dataclass(frozen=True)
class Addition:
    """New experts as width: `share * f(x) + sum_e share_E[e] * expert_e(x)`.

    `share` is None where the frozen output stays as it is; experts whose share is zero are left out.
    """

    branch: Branch
    share: Tensor | None
    share_E: Tensor

    @property
    def live(self) -> Tensor:
        """Experts that say something; all where there are no values to look at."""
        every = torch.arange(len(self.share_E), device=self.share_E.device)
        return every if self.share_E.is_meta else every[self.share_E != 0]

    @property
    def width(self) -> int:
        return len(self.live) * self.branch.down_EDF.shape[-1]

    def rows(self) -> tuple[Tensor, ...]:
        """Gate and up, or the one map of plain experts, each `(N, D)`."""
        first_ERD = self.branch.gate_up_EFD[self.live]
        parts = first_ERD.chunk(2, dim=1) if is_gated(first_ERD, self.branch.down_EDF) else (first_ERD,)
        return tuple(part.flatten(0, 1) for part in parts)

    def columns(self) -> Tensor:
        """`(D, N)`, float32."""
        down_EDF = self.branch.down_EDF[self.live].float() * self.share_E[self.live, None, None]
        return down_EDF.transpose(0, 1).flatten(1)


def maps_of(ffn: nn.Module) -> Maps:
    """The linear maps of a frozen FFN, whole or spread over its layer (a `SplitFfn`).

    Raises:
        NotExact: it is no FFN of two or three plain linear maps.
    """
    names = {name for name, child in ffn.named_children() if type(child) is nn.Linear}
    for gate, up, down in GATED_NAMES:
        if {gate, up, down} <= names:
            return Maps((gate, up), down, gated=True)
    linears = [name for name, module in ffn.named_modules() if hasattr(module, "in_features")]
    if len(linears) == 2 and set(linears) <= names:
        first, last = (getattr(ffn, name) for name in linears)
        if first.out_features in (last.in_features, 2 * last.in_features):
            return Maps((linears[0],), linears[1], gated=first.out_features != last.in_features)
    raise NotExact(f"{type(ffn).__name__} is no FFN of two or three plain nn.Linear maps")


def fits(ffn: nn.Module, branch: Branch) -> None:
    """Nothing, where the new experts are of the frozen FFN's own form.

    Raises:
        NotExact: they are not, or the frozen part is no plain FFN.
    """
    gated = is_gated(branch.gate_up_EFD, branch.down_EDF)
    maps = maps_of(ffn)
    if gated and not maps.gated:
        raise NotExact(
            "the frozen FFN has two matrices and no gate, and the new experts are gated: no width of it equals them "
            "(train with expert_kind='plain' for experts of its form)"
        )
    if maps.gated and not gated:
        raise NotExact("the frozen FFN is gated, and the new experts are plain (train with expert_kind='gated')")


def widened(ffn: nn.Module, addition: Addition | None, width: int | None = None) -> dict[str, nn.Linear]:
    """The linear maps, by attribute, of `ffn` with an addition, padded with zeros to `width`; None: as wide as it gets.

    Raises:
        NotExact: `ffn` is no FFN that can be made wider.
    """
    maps = maps_of(ffn)
    last = getattr(ffn, maps.last)
    own = last.in_features
    new_rows = addition.rows() if addition is not None else ()
    columns_DN = addition.columns() if addition is not None else last.weight.new_zeros(len(last.weight), 0)
    more = (width or own + columns_DN.shape[1]) - own
    parts = {}
    for index, name in enumerate(maps.first):
        old = getattr(ffn, name)
        mine = range(index * maps.halves, (index + 1) * maps.halves)
        weight = torch.cat(
            [
                _longer(part_FD, new_rows[half] if new_rows else part_FD[:0], more)
                for half, part_FD in zip(mine, old.weight.chunk(maps.halves), strict=True)
            ]
        )
        bias = None if old.bias is None else torch.cat([F.pad(part, (0, more)) for part in old.bias.chunk(maps.halves)])
        parts[name] = linear_of(weight, bias, like=old)
    weight, bias = last.weight, last.bias
    if addition is not None and addition.share is not None:
        # Rounded once: in float32 until the end.
        weight = (weight.float() * addition.share).to(weight.dtype)
        bias = None if bias is None else (bias.float() * addition.share).to(bias.dtype)
    parts[maps.last] = linear_of(_longer(weight.T, columns_DN.T, more).T, bias, like=last)
    return parts


def with_maps(ffn: nn.Module, parts: dict[str, nn.Linear]) -> nn.Module:
    """`ffn` with other linear maps, of the same class: all else (activation, config) is shared with the base's own."""
    wide = copy.copy(ffn)
    wide._modules = {**ffn._modules, **parts}
    if hasattr(wide, "intermediate_size"):
        wide.intermediate_size = parts[maps_of(ffn).last].in_features
    return wide


def prove(ffn: nn.Module, wide: nn.Module, addition: Addition | None) -> None:
    """Run both on random input: an FFN that does more than its projections say must not pass for one.

    Raises:
        NotExact: `wide` does not compute what `ffn` and the addition do.
    """
    weight = getattr(ffn, maps_of(ffn).last).weight
    if weight.is_meta:
        return
    x_TD = torch.randn(1, 8, weight.shape[0], generator=torch.Generator().manual_seed(0)).to(weight)
    f_TD, y_TD = _run(ffn, x_TD), _run(wide, x_TD)
    if not isinstance(f_TD, Tensor):
        raise NotExact(f"{type(ffn).__name__} returns more than its output")
    expected = f_TD.float()
    if addition is not None:
        expected = expected if addition.share is None else addition.share * expected
        expected = expected + _new_output(addition, x_TD.float())
    error, size = (y_TD.float() - expected).abs().max(), expected.abs().max()
    # Our choice: far above the rounding of the widest FFNs, far below what another activation or scale would do.
    tolerance = max(1e-5, 16 * torch.finfo(weight.dtype).eps)
    if not error <= tolerance * size.clamp_min(1e-6) and expected.isfinite().all():
        raise NotExact(f"{type(ffn).__name__} computes something else than its linear maps and one activation say")


def prove_spread(layer: nn.Module, split: SplitFfn) -> None:
    """A spread FFN cannot be run alone; what stands between its maps would have to know its width.

    Raises:
        NotExact: a norm of the FFN's width is in the layer.
    """
    width = describe_ffn(split).ffn_width
    for module in layer.modules():
        if not hasattr(module, "in_features") and any(p.shape == (width,) for p in module.parameters(recurse=False)):
            raise NotExact(f"the layer has a {type(module).__name__} across the FFN's width")


def linear_of(weight: Tensor, bias: Tensor | None, like: nn.Linear) -> nn.Linear:
    """A frozen linear map in the dtype and mode of `like`, around these tensors."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(weight.to(like.weight).contiguous(), requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias.to(like.weight), requires_grad=False)
    return linear.train(like.training)


def _longer(old_FD: Tensor, new_ND: Tensor, more: int) -> Tensor:
    """`old` and `new` one under the other, and zeros to `more` rows more than there were; new ones rounded here."""
    return torch.cat([old_FD, F.pad(new_ND.to(old_FD.dtype), (0, 0, 0, more - len(new_ND)))])


def _new_output(addition: Addition, x_TD: Tensor) -> Tensor:
    branch = addition.branch
    first_TEF = torch.einsum("btd,efd->btef", x_TD, branch.gate_up_EFD.float())
    if is_gated(branch.gate_up_EFD, branch.down_EDF):
        gate_TEF, up_TEF = first_TEF.chunk(2, dim=-1)
        hidden_TEF = branch.activation(gate_TEF) * up_TEF
    else:
        hidden_TEF = branch.activation(first_TEF)
    return torch.einsum("btef,edf->btd", hidden_TEF * addition.share_E[:, None], branch.down_EDF.float())


def _run(ffn: nn.Module, x_TD: Tensor) -> Tensor:
    training = ffn.training
    try:
        return ffn.eval()(x_TD)  # dropout would draw other zeros for each of the two
    finally:
        ffn.train(training)
