"""What a native host is, and what several of them share.

Legend: D width, E new experts, G two times the expert width (gate over up), H width of a gated half.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lynx_moe.export.native.slots import OPEN_TEXT_SLOTS, READS_FFN_WIDTH
from lynx_moe.export.read import Adapted, BlockWeights
from lynx_moe.registry import Registry

HOSTS: Registry[Host] = Registry("export host")

# Text decoders with Llama's attention (grouped queries, full rotary, scale 1/sqrt(head width)), norms and gated FFN.
LLAMA_LIKE = ("llama", "mistral", "qwen2", "qwen3")
# The same, with rotary positions on three axes. Where a VLM class hands out plain positions all three are one, and so
# is what they compute.
THREE_AXES = {"qwen2_vl_text": "qwen2", "qwen2_5_vl_text": "qwen2", "qwen3_vl_text": "qwen3"}

_COPIED = (
    "vocab_size hidden_size num_hidden_layers num_attention_heads num_key_value_heads head_dim hidden_act rms_norm_eps "
    "max_position_embeddings initializer_range use_cache attention_dropout tie_word_embeddings intermediate_size "
    "bos_token_id eos_token_id pad_token_id"
).split()


@dataclass(frozen=True)
class Placed:
    """Where one tensor of a frozen FFN goes: a name below the layer, a factor, and a place where several are stacked.

    `part` counts the tensors that lie on top of each other under this name, None for one that lies alone.
    """

    name: str
    factor: float = 1.0
    part: int | None = None


class Experts(NamedTuple):
    """The routed experts of one layer as a host holds them, without what the host needed to be filled up with."""

    router_ED: Tensor
    gate_up_EGD: Tensor
    down_EDH: Tensor


class Host(ABC):
    """One architecture of transformers with a shared expert.

    Attributes:
        name: its model type.
        decoders: model types of the text decoders whose attention and norms it has.
        keeps_ffn_width: whether `intermediate_size` still is the frozen FFN's in its config.
        every_layer: whether it may have routed experts in layers where the adapter has none: they are zeros there.
        scores_in_float32: whether it computes router scores in float32 in half precision too, as the live model does.
        rank: lower is preferred among hosts that leave equally few experts idle.
    """

    name: str
    decoders: tuple[str, ...]
    keeps_ffn_width: bool = True
    every_layer: bool = False
    scores_in_float32: bool = False
    rank: int = 0

    def in_vllm(self, adapted: Adapted) -> str:
        """Whether vLLM can serve the exported model, as far as its source tells."""
        kind = adapted.base.config.model_type
        answer = OPEN_TEXT_SLOTS.get(kind, "unknown")
        if answer.startswith("yes") and adapted.text_config.hidden_act != "silu":
            return f"no: its {self.name} knows silu only"
        return answer

    def slot_refusal(self, adapted: Adapted) -> str | None:
        """Why the VLM around the decoder cannot take this host."""
        kind = adapted.base.config.model_type
        if kind not in OPEN_TEXT_SLOTS:
            return closed_slot(kind)
        if kind in READS_FFN_WIDTH and not self.keeps_ffn_width:
            return f"{kind}'s connector is as wide as its decoder's FFN, and {self.name} calls another width so"
        return None

    @abstractmethod
    def refusal(self, adapted: Adapted) -> str | None:
        """Why this host cannot hold the adapter or the details of a decoder that is one of its kinds."""

    @abstractmethod
    def text_config(self, adapted: Adapted):
        """The host's config for this decoder and this adapter."""

    def outer(self, adapted: Adapted, text) -> tuple[object, type]:
        """Config and class of the whole VLM around the host's text config."""
        return rebuilt(type(adapted.base.config), adapted, text), type(adapted.base)

    @abstractmethod
    def is_sparse(self, text, layer: int) -> bool:
        """Whether a layer of the host has routed experts."""

    @abstractmethod
    def place(self, matrix: str, weights: BlockWeights | None) -> Placed:
        """Where `gate_proj`, `up_proj` or `down_proj` of a frozen FFN goes in a layer with routed experts."""

    @abstractmethod
    def routed(self, text, weights: BlockWeights | None, dtype: torch.dtype) -> dict[str, Tensor]:
        """What the host's layer holds beside the frozen FFN, by name below the layer; zeros where nothing was added."""

    @abstractmethod
    def experts(self, layer: dict[str, Tensor], num_experts: int, expert_width: int) -> Experts:
        """`routed` undone: the adapter's experts from a layer's tensors, still with what was folded into them."""


def rebuilt(config_class: type, adapted: Adapted, text, **changed):
    """The base's outer config as `config_class`, around another text config."""
    fields = adapted.base.config.to_dict() | {"text_config": text.to_dict()} | changed
    for key in ("architectures", "model_type"):
        fields.pop(key, None)
    return config_class.from_dict(fields)


def closed_slot(kind: str) -> str:
    """The reason that holds for every model type outside `OPEN_TEXT_SLOTS`."""
    return f"the class of a {kind!r} model accepts no other text architecture than its own"


def decoder_kind(text) -> str:
    """The text decoder's model type, or that of the plain decoder it equals under plain positions."""
    return THREE_AXES.get(text.model_type, text.model_type)


def llama_like_refusal(adapted: Adapted) -> str | None:
    """What hosts with Llama's attention cannot hold of a decoder that is nearly like it."""
    text = adapted.text_config
    if text.model_type in THREE_AXES and any(hasattr(module, "get_rope_index") for module in adapted.base.modules()):
        return "the base gives pictures positions on three axes, and the host's positions have one"
    if "sliding_attention" in (getattr(text, "layer_types", None) or ()) or (
        text.model_type == "mistral" and text.sliding_window
    ):
        return "the base uses sliding-window attention, and the hosts are measured with full attention only"
    if text.rope_parameters.get("partial_rotary_factor", 1.0) != 1.0:
        return "the base turns only a part of each head, and the hosts are measured with full rotary positions"
    return None


def copied_text_fields(text) -> dict:
    """What every Llama-like config spells alike; rotary positions without the axes that plain positions have not."""
    fields = {name: getattr(text, name) for name in _COPIED if hasattr(text, name)}
    fields["rope_parameters"] = {
        key: value for key, value in text.rope_parameters.items() if key not in ("mrope_section", "mrope_interleaved")
    }
    return fields


def input_bias(text) -> bool:
    """Whether queries, keys and values have biases: Qwen2 by construction, without a switch for them."""
    return decoder_kind(text) == "qwen2" or bool(getattr(text, "attention_bias", False))


def output_bias(text) -> bool:
    return decoder_kind(text) != "qwen2" and bool(getattr(text, "attention_bias", False))


def under(child: str, matrix: str, factor: float = 1.0) -> Placed:
    return Placed(f"{child}.{matrix}.weight", factor)


def filled(weights: Tensor | None, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Zeros of `shape` with `weights` in the first rows of the first axis: experts that stand for nothing are zeros."""
    whole = torch.zeros(shape, dtype=dtype)
    if weights is not None:
        whole[: len(weights)] = weights
    return whole


def pad_width(gate_up_EGD: Tensor, down_EDH: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Experts widened to `width` by zero rows and columns, which change no output."""
    num_experts, _, model_width = gate_up_EGD.shape
    own = down_EDH.shape[-1]
    if own == width:
        return gate_up_EGD, down_EDH
    wide_up = gate_up_EGD.new_zeros(num_experts, 2 * width, model_width)
    wide_up[:, :own], wide_up[:, width : width + own] = gate_up_EGD[:, :own], gate_up_EGD[:, own:]
    wide_down = down_EDH.new_zeros(num_experts, model_width, width)
    wide_down[:, :, :own] = down_EDH
    return wide_up, wide_down


def cut_width(gate_up_EGD: Tensor, down_EDH: Tensor, own: int) -> tuple[Tensor, Tensor]:
    """`pad_width` undone."""
    width = down_EDH.shape[-1]
    gate_up = torch.cat([gate_up_EGD[:, :own], gate_up_EGD[:, width : width + own]], dim=1)
    return gate_up, down_EDH[:, :, :own].contiguous()


def divisor_from(expert_width: int, dense_width: int) -> int:
    """Smallest divisor of the dense width that holds an expert, for hosts that count the shared expert in such."""
    return next(width for width in range(expert_width, dense_width + 1) if dense_width % width == 0)
