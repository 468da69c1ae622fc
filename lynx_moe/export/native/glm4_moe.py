"""Host glm4_moe: independent sigmoid weights, a shared expert that is added as is."""

from __future__ import annotations

import torch
from torch import Tensor

from lynx_moe.export.native.host import (
    HOSTS,
    LLAMA_LIKE,
    THREE_AXES,
    Experts,
    Host,
    Placed,
    copied_text_fields,
    cut_width,
    decoder_kind,
    divisor_from,
    filled,
    input_bias,
    llama_like_refusal,
    output_bias,
    pad_width,
    under,
)
from lynx_moe.export.read import Adapted, BlockWeights


class Glm4Moe(Host):
    """Additive mixes: no tensor of the base is folded.

    Dense layers come first in this host and nowhere else, so layers above the lowest wrapped one get experts of zeros.
    """

    name = "glm4_moe"
    decoders = (*LLAMA_LIKE, *THREE_AXES)
    every_layer = True
    scores_in_float32 = True

    def refusal(self, adapted: Adapted) -> str | None:
        if adapted.config.mix != "additive":
            return f"glm4_moe adds sigmoid-weighted experts, and the mix here is {adapted.config.mix!r}"
        if output_bias(adapted.text_config):
            return "the base's attention output has a bias, and glm4_moe's has not"
        if adapted.expert_width > adapted.text_config.intermediate_size:
            return "the new experts are wider than the frozen FFN, which glm4_moe counts in units of one expert"
        return llama_like_refusal(adapted)

    def text_config(self, adapted: Adapted):
        from transformers import Glm4MoeConfig

        text, settings = adapted.text_config, adapted.config
        width = divisor_from(adapted.expert_width, text.intermediate_size)
        fields = copied_text_fields(text)
        # The host's own default turns half of each head.
        fields["rope_parameters"]["partial_rotary_factor"] = 1.0
        return Glm4MoeConfig(
            **fields,
            attention_bias=input_bias(text),
            use_qk_norm=decoder_kind(text) == "qwen3",
            moe_intermediate_size=width,
            n_shared_experts=text.intermediate_size // width,
            # The host's group-limited routing takes the best two of a group, so it cannot have a single expert: a
            # null expert is added, and always chosen together with the first.
            n_routed_experts=max(2, settings.num_experts),
            num_experts_per_tok=2 if settings.num_experts == 1 else settings.top_k,
            n_group=1,
            topk_group=1,
            norm_topk_prob=False,
            routed_scaling_factor=1.0,
            first_k_dense_replace=min(adapted.wrapped_layers),
            num_mtp_layers=0,
        )

    def is_sparse(self, text, layer: int) -> bool:
        return layer >= text.first_k_dense_replace

    def place(self, matrix: str, weights: BlockWeights | None) -> Placed:
        return under("mlp.shared_experts", matrix)

    def routed(self, text, weights: BlockWeights | None, dtype: torch.dtype) -> dict[str, Tensor]:
        num_experts, width, model_width = text.n_routed_experts, text.moe_intermediate_size, text.hidden_size
        router = gate_up = down = None
        if weights is not None:
            router = weights.router_ED
            gate_up, down = pad_width(weights.gate_up_EGD, weights.down_EDH, width)
        return {
            "mlp.gate.weight": filled(router, (num_experts, model_width), dtype),
            "mlp.gate.e_score_correction_bias": torch.zeros(num_experts, dtype=torch.float32),
            "mlp.experts.gate_up_proj": filled(gate_up, (num_experts, 2 * width, model_width), dtype),
            "mlp.experts.down_proj": filled(down, (num_experts, model_width, width), dtype),
        }

    def experts(self, layer: dict[str, Tensor], num_experts: int, expert_width: int) -> Experts:
        gate_up, down = cut_width(layer["mlp.experts.gate_up_proj"], layer["mlp.experts.down_proj"], expert_width)
        return Experts(layer["mlp.gate.weight"][:num_experts], gate_up[:num_experts], down[:num_experts])


HOSTS.register(Glm4Moe.name)(Glm4Moe())
