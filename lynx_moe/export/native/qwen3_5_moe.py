"""Host qwen3_5_moe: Qwen3.5's own mixture of experts, for its dense models and for VLMs around its dense decoder."""

from __future__ import annotations

from lynx_moe.export.native import softmax
from lynx_moe.export.native.host import HOSTS, rebuilt
from lynx_moe.export.native.qwen2_moe import Qwen2Moe
from lynx_moe.export.read import Adapted

# What the dense decoder's config has and the host's has not, or has otherwise.
_DENSE_ONLY = ("model_type", "architectures", "intermediate_size")


class Qwen3_5Moe(Qwen2Moe):
    """Linear attention, gated attention and positions on three axes are those of the dense model, untouched.

    Every layer has routed experts, zeros where nothing was added. The dense VLM takes no other decoder, but the whole
    VLM has a twin with this one.
    """

    name = "qwen3_5_moe"
    decoders = ("qwen3_5_text",)
    keeps_ffn_width = False
    every_layer = True

    def slot_refusal(self, adapted: Adapted) -> str | None:
        return None if adapted.base.config.model_type == "qwen3_5" else super().slot_refusal(adapted)

    def refusal(self, adapted: Adapted) -> str | None:
        return softmax.mix_refusal(adapted, self.name)

    def text_config(self, adapted: Adapted):
        from transformers import Qwen3_5MoeTextConfig

        fields = adapted.text_config.to_dict()
        for key in _DENSE_ONLY:
            fields.pop(key, None)
        num_experts, top_k = softmax.counts(adapted)
        return Qwen3_5MoeTextConfig(
            **fields,
            moe_intermediate_size=adapted.expert_width,
            shared_expert_intermediate_size=adapted.text_config.intermediate_size,
            num_experts=num_experts,
            num_experts_per_tok=top_k,
        )

    def outer(self, adapted: Adapted, text) -> tuple[object, type]:
        if adapted.base.config.model_type != "qwen3_5":
            return super().outer(adapted, text)
        from transformers import Qwen3_5MoeConfig, Qwen3_5MoeForConditionalGeneration

        vision = adapted.base.config.vision_config.to_dict() | {"model_type": "qwen3_5_moe_vision"}
        return rebuilt(Qwen3_5MoeConfig, adapted, text, vision_config=vision), Qwen3_5MoeForConditionalGeneration

    def is_sparse(self, text, layer: int) -> bool:
        return True


HOSTS.register(Qwen3_5Moe.name)(Qwen3_5Moe())
