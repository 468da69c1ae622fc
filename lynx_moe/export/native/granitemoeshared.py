"""Host granitemoeshared: softmax over the selected experts, biases on all of attention, and Granite's multipliers."""

from __future__ import annotations

import torch
from torch import Tensor

from lynx_moe.export.native import softmax
from lynx_moe.export.native.host import (
    HOSTS,
    Experts,
    Host,
    Placed,
    copied_text_fields,
    input_bias,
    llama_like_refusal,
    output_bias,
)
from lynx_moe.export.read import Adapted, BlockWeights

_MULTIPLIERS = ("embedding_multiplier", "logits_scaling", "residual_multiplier", "attention_multiplier")


class GraniteMoeShared(Host):
    """Granite's dense decoders, and Llama's with a bias on the attention output, which other hosts have not.

    Every layer has routed experts, zeros where nothing was added. The shared expert is added as is, so that only the
    convex mix folds anything.
    """

    name = "granitemoeshared"
    decoders = ("granite", "llama")
    keeps_ffn_width = False
    every_layer = True
    rank = 1

    def in_vllm(self, adapted: Adapted) -> str:
        if input_bias(adapted.text_config):
            return "no: its granitemoeshared has no biases in attention"
        if (getattr(adapted.text_config, "head_dim", None) or 0) not in (0, _default_head_width(adapted.text_config)):
            return "no: its granitemoeshared has heads of hidden_size / num_attention_heads"
        return super().in_vllm(adapted)

    def refusal(self, adapted: Adapted) -> str | None:
        text = adapted.text_config
        if reason := softmax.mix_refusal(adapted, self.name):
            return reason
        if input_bias(text) != output_bias(text):
            return "granitemoeshared has biases on all of attention or on none of it"
        return llama_like_refusal(adapted)

    def text_config(self, adapted: Adapted):
        from transformers import GraniteMoeSharedConfig

        text = adapted.text_config
        fields = copied_text_fields(text)
        head_width = fields.get("head_dim") or _default_head_width(text)
        if text.model_type == "granite":
            fields |= {name: getattr(text, name) for name in _MULTIPLIERS}
        else:
            fields["attention_multiplier"] = head_width**-0.5
        num_experts, top_k = softmax.counts(adapted)
        return GraniteMoeSharedConfig(
            **fields | {"intermediate_size": adapted.expert_width},
            attention_bias=output_bias(text),
            shared_intermediate_size=text.intermediate_size,
            num_local_experts=num_experts,
            num_experts_per_tok=top_k,
        )

    def is_sparse(self, text, layer: int) -> bool:
        return True

    def place(self, matrix: str, weights: BlockWeights | None) -> Placed:
        if matrix == "down_proj":
            return Placed("shared_mlp.output_linear.weight", softmax.shares(weights)[0])
        return Placed("shared_mlp.input_linear.weight", part=("gate_proj", "up_proj").index(matrix))

    def routed(self, text, weights: BlockWeights | None, dtype: torch.dtype) -> dict[str, Tensor]:
        width, model_width = text.intermediate_size, text.hidden_size
        router, gate_up, down = softmax.stacked(weights, text.num_local_experts, width, model_width, dtype)
        return {
            "block_sparse_moe.router.weight": router,
            "block_sparse_moe.experts.gate_up_proj": gate_up,
            "block_sparse_moe.experts.down_proj": down,
        }

    def experts(self, layer: dict[str, Tensor], num_experts: int, expert_width: int) -> Experts:
        names = ("router.weight", "experts.gate_up_proj", "experts.down_proj")
        return softmax.first(*(layer[f"block_sparse_moe.{name}"] for name in names), num_experts)


def _default_head_width(text) -> int:
    return text.hidden_size // text.num_attention_heads


HOSTS.register(GraniteMoeShared.name)(GraniteMoeShared())
