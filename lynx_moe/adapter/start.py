"""Where new experts start: sized after the frozen FFN, and filled with zeros, slices or copies of it."""

from __future__ import annotations

import copy

import torch
from peft.utils.integrations import dequantize_module_weight, gather_params_ctx
from torch import Tensor, nn
from torch.nn import functional as F

from lynx_moe.adapter.branch import Branch
from lynx_moe.adapter.config import LynxConfig
from lynx_moe.adapter.projection import Delta
from lynx_moe.errors import ConfigError, FamilyError
from lynx_moe.families.ffn import FfnShape, describe_ffn
from lynx_moe.ops.widths import default_expert_width

GATED_NAMES = (("gate_proj", "up_proj", "down_proj"), ("w1", "w3", "w2"), ("wi_0", "wi_1", "wo"))


def build_branch(config: LynxConfig, frozen: nn.Module, quantised_dtype: torch.dtype = torch.float32) -> Branch:
    """The new experts that `config` asks for beside `frozen`, on its device and in its floating dtype.

    Args:
        quantised_dtype: number type beside quantised weights, which have no floating one.

    Raises:
        FamilyError: `frozen` is no feed-forward block.
        ConfigError: the start asked for does not exist for this block.
    """
    shape = describe_ffn(frozen)
    activation = shape.activation or F.silu
    branch = Branch(
        width=shape.width,
        num_experts=config.num_experts,
        expert_width=_expert_width(config, shape),
        top_k=config.top_k,
        mix=config.mix,
        # A copy: a module shared between the frozen and the new part would sit in the tree twice.
        activation=copy.deepcopy(activation) if isinstance(activation, nn.Module) else activation,
        alpha_init=config.alpha_init,
        sparsity_penalty=config.sparsity_penalty,
        gate_sparsity=config.gate_sparsity,
        balance=config.balance,
        router_z=config.router_z,
        gated=config.expert_kind == "gated",
        **_placed_like(frozen, quantised_dtype),
    )
    if config.expert_init != "zero" and branch.router_ED.device.type != "meta":
        # ZeRO-3 may have left a part of the frozen weights here: gathered to be read, by every process.
        with gather_params_ctx(list(frozen.parameters()), modifier_rank=None):
            _fill_from_frozen(branch, frozen, shape, config)
    return branch


def build_delta(config: LynxConfig, frozen: nn.Module, quantised_dtype: torch.dtype = torch.float32) -> Delta:
    """The low-rank delta that `config` asks for beside one linear map, on its device and in its floating dtype.

    Raises:
        FamilyError: `frozen` is no linear map.
    """
    if not hasattr(frozen, "in_features") or not hasattr(frozen, "out_features"):
        raise FamilyError(
            f"{type(frozen).__name__} is no linear map",
            why="a low-rank delta stands beside a module with in_features and out_features",
            fix="leave target_modules=None to find the attention's projections by structure",
        )
    return Delta(
        frozen.in_features, frozen.out_features, config.attention_rank, **_placed_like(frozen, quantised_dtype)
    )


def _placed_like(frozen: nn.Module, quantised_dtype: torch.dtype) -> dict:
    """Device and floating dtype of new weights beside `frozen`."""
    first = next((p for p in frozen.parameters()), torch.empty(0))
    is_plain = first.dtype in (torch.float16, torch.bfloat16, torch.float32)
    return {"dtype": first.dtype if is_plain else quantised_dtype, "device": first.device}


def _expert_width(config: LynxConfig, shape: FfnShape) -> int:
    if config.expert_width is not None:
        # Two experts of half the width, both chosen, do what one of the whole does: this takes nothing from anybody.
        if config.mix == "additive" and not shape.is_moe and config.expert_width > shape.ffn_width:
            raise ConfigError(
                f"expert_width={config.expert_width} beside a frozen FFN {shape.ffn_width} wide",
                why="the native host of additive experts (glm4_moe) counts the frozen FFN in units of one expert, so "
                "none can be wider",
                fix=f"use expert_width={shape.ffn_width} or less with more experts, or mix='convex' (any width)",
            )
        return config.expert_width
    if shape.is_moe or config.expert_init == "copy":
        return shape.ffn_width
    return default_expert_width(shape.ffn_width, config.num_experts)


@torch.no_grad()
def _fill_from_frozen(branch: Branch, frozen: nn.Module, shape: FfnShape, config: LynxConfig) -> None:
    width = branch.down_EDF.shape[-1]
    if config.expert_init == "copy" and width != shape.ffn_width:
        raise ConfigError(
            f"expert_init='copy' with expert_width={width}",
            why=f"a copy of the frozen expert is {shape.ffn_width} wide",
            fix=f"use expert_width={shape.ffn_width} (or None), or expert_init='slice'",
        )
    for e in range(config.num_experts):
        gate_FD, up_FD, down_DF = _frozen_projections(frozen, shape.width, e)
        # Slices tile the frozen FFN, starting over when the new experts are wider together.
        at = (torch.arange(width, device=gate_FD.device) + e * width) % shape.ffn_width
        branch.gate_up_EFD[e] = torch.cat([gate_FD[at], up_FD[at]])
        if config.mix == "convex":
            # A slice is 1/n of the FFN's sum; scaled by n its expectation over slices is the FFN, so that
            # alpha * f + (1 - alpha) * n starts near f. A copy (n = 1) starts at f, up to rounding.
            branch.down_EDF[e] = down_DF[:, at] * (shape.ffn_width / width)
        # Other mixes keep a zero output projection: a fresh adapter changes nothing.


def _frozen_projections(frozen: nn.Module, width: int, expert: int) -> tuple[Tensor, Tensor, Tensor]:
    """Gate `(F, D)`, up `(F, D)` and down `(D, F)` of a frozen FFN, or of one expert of a frozen MoE block."""
    modules = dict(frozen.named_modules())
    for gate, up, down in GATED_NAMES:
        if {gate, up, down} <= modules.keys():
            return tuple(dequantize_module_weight(modules[n]) for n in (gate, up, down))
    if {"gate_up_proj", "down_proj"} <= modules.keys():
        gate_FD, up_FD = dequantize_module_weight(modules["gate_up_proj"]).chunk(2)
        return gate_FD, up_FD, dequantize_module_weight(modules["down_proj"])
    for owner in modules.values():
        gate_up, down = getattr(owner, "gate_up_proj", None), getattr(owner, "down_proj", None)
        stacked = isinstance(gate_up, nn.Parameter) and gate_up.ndim == 3 and gate_up.shape[1] == 2 * down.shape[2]
        # Experts behind a projection (muse_spark) read another width than the new ones, which read the model's.
        if stacked and gate_up.shape[2] == width:
            e = expert % len(gate_up)
            return *gate_up[e].chunk(2), down[e]
    raise ConfigError(
        f"expert_init needs a gated FFN, and {type(frozen).__name__} is not one we can read",
        why="new experts are act(gate(x)) * up(x), and no such three projections were found to copy from",
        fix="use expert_init='zero'",
    )
