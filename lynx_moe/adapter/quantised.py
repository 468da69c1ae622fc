"""Bases whose weights bitsandbytes holds in 8 or 4 bits: kept differentiable, kept as they are, and looked through.

New experts beside such a base are ordinary tensors. They compute in the number type that the rest of the base is held
in (bfloat16 as a rule); what PEFT stores and the optimiser moves are float32 masters, unless `get_peft_model` is called
with `autocast_adapter_dtype=False`. In bfloat16 an update below 1/256 of a weight would be rounded away.

The only file that imports bitsandbytes, and only for a base that is made of it. Measured with bitsandbytes 0.50.2.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator

import torch
from torch import nn

from lynx_moe.errors import CheckpointError, FamilyError
from lynx_moe.families.find import find_decoder_layers

NAMES_SHOWN = 3


def quantisation_of(model: nn.Module) -> str | None:
    """ "nf4", "fp4" or "int8" when bitsandbytes holds weights of `model`, None when it holds none."""
    parameter = next(_quantised_parameters(model), None)
    if parameter is None:
        return None
    return "int8" if parameter.dtype == torch.int8 else parameter.quant_state.quant_type


def floating_dtype(model: nn.Module) -> torch.dtype:
    """The number type of what is not quantised in `model`; float32 when nothing is left."""
    plain = (p.dtype for p in model.parameters() if p.is_floating_point() and not _is_quantised(p))
    return next(plain, torch.float32)


def number_of_weights(parameter: nn.Parameter) -> int:
    """How many numbers a parameter stands for: two per byte where bitsandbytes packed it."""
    if _is_quantised(parameter) and parameter.dtype != torch.int8:
        return parameter.quant_state.shape.numel()
    return getattr(parameter, "ds_numel", parameter.numel())  # ZeRO-3 has left a part of it here


def keep_trainable(model: nn.Module) -> None:
    """Takes three habits from bitsandbytes' layers that an adapter cannot live with. Repeatable; free for other models.

    1. On a CPU with AVX512-BF16, a 4-bit layer in eval mode repacks its weights at the first forward whose input needs
       no gradient (`generate()`). From then on its output has no gradient at all, and nobody says so. Never here.
    2. A bias whose number type is not the input's is cast in place, for good: rounded, under autocast. Put back here.
    3. Every 8-bit product logs that its input is cast. Once is enough.

    Raises:
        CheckpointError: weights were repacked already. There is no way back: bitsandbytes' own inverse, which runs
            inside every `state_dict()`, leaves the blocks' scales rounded to bfloat16 and, without double quantisation,
            in another order (relative error of a 64 x 128 matrix after the round trip: 0.23).
    """
    if quantisation_of(model) is None:
        return
    import bitsandbytes as bnb

    four_bit = {n: m for n, m in model.named_modules() if isinstance(m, bnb.nn.Linear4bit)}
    packed = [n for n, m in four_bit.items() if getattr(m.weight.quant_state, "packing_format_for_cpu", False)]
    if packed:
        raise CheckpointError(
            f"{len(packed)} 4-bit matrices were repacked for inference, the first is {packed[0]}",
            why="the base answered something before the adapter was attached; in this form no gradient passes, and "
            "the next state_dict(), which saving and loading adapters calls, would scramble the weights",
            fix="load the base again and attach the adapter, or call lynx_moe.adapter.quantised.keep_trainable(base), "
            "before its first forward",
        )
    for module in four_bit.values():
        module.support_avx512bf16_for_cpu = False
    for module in model.modules():
        if isinstance(module, bnb.nn.Linear4bit | bnb.nn.Linear8bitLt) and module.bias is not None:
            if _remember_bias not in module._forward_pre_hooks.values():
                module.register_forward_pre_hook(_remember_bias)
                module.register_forward_hook(_put_bias_back, always_call=True)
    talkative = logging.getLogger("bitsandbytes.autograd._functions")
    if not any(isinstance(f, _Once) for f in talkative.filters):
        talkative.addFilter(_Once())


def say_what_stayed_wide(model: nn.Module) -> None:
    """Warns when experts of a quantised MoE base are not quantised: their memory is what a user would count on.

    transformers holds the experts of a layer as one 3-D parameter, and bitsandbytes quantises linear layers only
    (bitsandbytes issue 1849).
    """
    kind = quantisation_of(model)
    wide = _fused_experts(model) if kind is not None else []
    if not wide:
        return
    left = sum(_bytes(p) for _, p in wide)
    share = left / sum(map(_bytes, model.parameters()))
    more = f" and {len(wide) - NAMES_SHOWN} more" if len(wide) > NAMES_SHOWN else ""
    warnings.warn(
        f"the base is loaded in {kind}, but bitsandbytes cannot quantise fused experts: "
        f"{', '.join(n for n, _ in wide[:NAMES_SHOWN])}{more} stay {wide[0][1].dtype}, which is {100 * share:.0f} % of "
        f"the base's bytes ({left / 2**20:.1f} MiB). Plan memory for that, or take a base with dense FFNs.",
        UserWarning,
        stacklevel=2,
    )


def say_what_is_read_wrongly(model: nn.Module) -> None:
    """Warns of 4-bit matrices on a CPU whose rows are no whole number of blocks.

    bitsandbytes 0.50.2 packs blocks of 64 across rows, and its CPU kernel unpacks them row by row: the relative error
    of a matrix 96 wide is 0.28 where 4 bits cost 0.09.
    """
    wrong = {}
    for name, module in model.named_modules():
        state = getattr(getattr(module, "weight", None), "quant_state", None)
        if state is not None and module.weight.device.type == "cpu" and module.in_features % state.blocksize:
            wrong[name] = (module.in_features, state.blocksize)
    if wrong:
        name, (width, block) = next(iter(wrong.items()))
        warnings.warn(
            f"{len(wrong)} 4-bit matrices, the first is {name}, have rows of {width} numbers, no multiple of {block}: "
            "on a CPU bitsandbytes reads those wrongly. Use int8, leave them out (quant.skip_modules), or use a GPU.",
            UserWarning,
            stacklevel=2,
        )


def outside_decoder_layers(model: nn.Module) -> list[str]:
    """Names of the parts of a VLM that lie beside the text decoder's layers and hold linear maps.

    Vision tower, projector and output head: small, and where rounding costs most.

    Args:
        model: not quantised; weights are not looked at, so it may be on the meta device.

    Raises:
        FamilyError: the model has no text decoder that can be found.
    """
    layers = find_decoder_layers(model)[1][0].inside.rpartition(".")[0]
    found, path = [], ""
    for part in layers.split("."):
        for name, child in model.get_submodule(path).named_children():
            if name != part and any(isinstance(m, nn.Linear) for m in child.modules()):
                found.append(f"{path}.{name}".strip("."))
        path = f"{path}.{part}".strip(".")
    return found


def _is_quantised(parameter: nn.Parameter) -> bool:
    return type(parameter).__module__.startswith("bitsandbytes.")


def _quantised_parameters(model: nn.Module) -> Iterator[nn.Parameter]:
    return (p for p in model.parameters() if _is_quantised(p))


def _fused_experts(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Floating 3-D parameters of the decoder's feed-forward positions; vision towers have other 3-D parameters."""
    try:
        blocks = find_decoder_layers(model)[1]
    except FamilyError:
        return []  # blocks that are wrapped by their full names; nothing is known of the rest
    inside = tuple(f"{block.name}." for block in blocks)
    named = ((n, p) for n, p in model.named_parameters() if n.startswith(inside))
    return [(n, p) for n, p in named if p.ndim == 3 and p.is_floating_point() and not _is_quantised(p)]


def _bytes(parameter: nn.Parameter) -> int:
    return parameter.numel() * parameter.element_size()


def _remember_bias(module: nn.Module, args: tuple) -> None:
    module._bias_before = module.bias.data


def _put_bias_back(module: nn.Module, args: tuple, output) -> None:
    before = module.__dict__.pop("_bias_before", None)
    if before is not None and module.bias.dtype != before.dtype:
        module.bias.data = before


class _Once(logging.Filter):
    """Lets every message through once."""

    def __init__(self):
        super().__init__()
        self._seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        is_new = message not in self._seen
        self._seen.add(message)
        return is_new
