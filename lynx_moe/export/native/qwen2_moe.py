"""Host qwen2_moe: softmax over the selected experts, and any subset of layers."""

from __future__ import annotations

import torch
from torch import Tensor

from lynx_moe.export.native import softmax
from lynx_moe.export.native.host import (
    HOSTS,
    LLAMA_LIKE,
    THREE_AXES,
    Experts,
    Host,
    Placed,
    copied_text_fields,
    decoder_kind,
    input_bias,
    llama_like_refusal,
    output_bias,
    under,
)
from lynx_moe.export.read import Adapted, BlockWeights

# The shared expert is multiplied by sigmoid(gate(x)), and a gate of zeros makes that one half.
HALVED = 2.0


class Qwen2Moe(Host):
    """Layers without a block stay as they are: `mlp_only_layers` names them."""

    name = "qwen2_moe"
    decoders = (*LLAMA_LIKE, *THREE_AXES)

    def refusal(self, adapted: Adapted) -> str | None:
        if reason := softmax.mix_refusal(adapted, self.name):
            return reason
        if decoder_kind(adapted.text_config) == "qwen3":
            return "the base normalises queries and keys, and qwen2_moe does not"
        if output_bias(adapted.text_config):
            return "the base's attention output has a bias, and qwen2_moe's has not"
        return llama_like_refusal(adapted)

    def text_config(self, adapted: Adapted):
        from transformers import Qwen2MoeConfig

        text = adapted.text_config
        return Qwen2MoeConfig(**copied_text_fields(text), qkv_bias=input_bias(text), **self.expert_fields(adapted))

    @staticmethod
    def expert_fields(adapted: Adapted) -> dict:
        """Number, widths and places of the experts, as Qwen's configs spell them."""
        text = adapted.text_config
        num_experts, top_k = softmax.counts(adapted)
        return {
            "moe_intermediate_size": adapted.expert_width,
            "shared_expert_intermediate_size": text.intermediate_size,
            "num_experts": num_experts,
            "num_experts_per_tok": top_k,
            "norm_topk_prob": True,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [i for i in range(text.num_hidden_layers) if i not in adapted.wrapped_layers],
        }

    def is_sparse(self, text, layer: int) -> bool:
        return layer not in text.mlp_only_layers

    def place(self, matrix: str, weights: BlockWeights | None) -> Placed:
        factor = HALVED * softmax.shares(weights)[0] if matrix == "down_proj" else 1.0
        return under("mlp.shared_expert", matrix, factor)

    def routed(self, text, weights: BlockWeights | None, dtype: torch.dtype) -> dict[str, Tensor]:
        width, model_width = text.moe_intermediate_size, text.hidden_size
        router, gate_up, down = softmax.stacked(weights, text.num_experts, width, model_width, dtype)
        return {
            "mlp.gate.weight": router,
            "mlp.experts.gate_up_proj": gate_up,
            "mlp.experts.down_proj": down,
            "mlp.shared_expert_gate.weight": torch.zeros(1, model_width, dtype=dtype),
        }

    def experts(self, layer: dict[str, Tensor], num_experts: int, expert_width: int) -> Experts:
        names = ("mlp.gate.weight", "mlp.experts.gate_up_proj", "mlp.experts.down_proj")
        return softmax.first(*(layer[name] for name in names), num_experts)


HOSTS.register(Qwen2Moe.name)(Qwen2Moe())
