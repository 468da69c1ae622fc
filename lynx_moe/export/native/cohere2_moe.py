"""Host cohere2_moe: Cohere's parallel layers, with sigmoid weights or a softmax over the selected, and any layers."""

from __future__ import annotations

import torch
from torch import Tensor

from lynx_moe.export.native import softmax
from lynx_moe.export.native.host import HOSTS, Experts, Host, Placed, cut_width, divisor_from, under
from lynx_moe.export.read import Adapted, BlockWeights

_COPIED = (
    "vocab_size hidden_size num_hidden_layers num_attention_heads num_key_value_heads head_dim hidden_act "
    "max_position_embeddings initializer_range layer_norm_eps use_cache pad_token_id bos_token_id eos_token_id "
    "tie_word_embeddings attention_bias attention_dropout sliding_window layer_types logit_scale rope_parameters"
).split()


class Cohere2Moe(Host):
    """Cohere2's dense decoders with either mix; local and global attention in turn stay as they are."""

    name = "cohere2_moe"
    decoders = ("cohere2",)
    keeps_ffn_width = False

    def refusal(self, adapted: Adapted) -> str | None:
        if adapted.config.mix not in ("additive", "convex"):
            return f"cohere2_moe has no gate per token, and the mix here is {adapted.config.mix!r}"
        if adapted.expert_width > adapted.text_config.intermediate_size:
            return "the new experts are wider than the frozen FFN, which cohere2_moe counts in units of one expert"
        return None

    def text_config(self, adapted: Adapted):
        from transformers import Cohere2MoeConfig

        text, settings = adapted.text_config, adapted.config
        width = divisor_from(adapted.expert_width, text.intermediate_size)
        sparse = set(adapted.wrapped_layers)
        return Cohere2MoeConfig(
            **{name: getattr(text, name) for name in _COPIED},
            intermediate_size=width,
            num_shared_experts=text.intermediate_size // width,
            shared_expert_combination_strategy="sum",
            expert_selection_fn="sigmoid" if settings.mix == "additive" else "softmax",
            norm_topk_prob=False,
            num_experts=settings.num_experts,
            num_experts_per_tok=settings.top_k,
            mlp_layer_types=["sparse" if i in sparse else "dense" for i in range(text.num_hidden_layers)],
            prefix_dense_intermediate_size=text.intermediate_size,
            # Only with a pattern of one are dense layers given rotary positions that the base's global ones have not.
            prefix_dense_sliding_window_pattern=2,
        )

    def is_sparse(self, text, layer: int) -> bool:
        return text.mlp_layer_types[layer] == "sparse"

    def place(self, matrix: str, weights: BlockWeights | None) -> Placed:
        return under("mlp.shared_experts", matrix, softmax.shares(weights)[0] if matrix == "down_proj" else 1.0)

    def routed(self, text, weights: BlockWeights | None, dtype: torch.dtype) -> dict[str, Tensor]:
        width, model_width = text.intermediate_size, text.hidden_size
        router, gate_up, down = softmax.stacked(weights, text.num_experts, width, model_width, dtype)
        return {"mlp.gate.weight": router, "mlp.experts.gate_up_proj": gate_up, "mlp.experts.down_proj": down}

    def experts(self, layer: dict[str, Tensor], num_experts: int, expert_width: int) -> Experts:
        gate_up, down = cut_width(layer["mlp.experts.gate_up_proj"], layer["mlp.experts.down_proj"], expert_width)
        return softmax.first(layer["mlp.gate.weight"], gate_up, down, num_experts)


HOSTS.register(Cohere2Moe.name)(Cohere2Moe())
