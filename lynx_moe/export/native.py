"""Route "native": the frozen FFN becomes the shared expert, the new experts the routed experts, of an architecture that
transformers already has, inside the same VLM class. No code travels with the weights.

What a host can hold was measured for each pair below (router arithmetic, expert layout, attention, saved names). A host
is one class in `HOSTS`: what it refuses, the text config it wants, and the tensors of one layer.

Legend: D width, E new experts, G two times the expert width (gate over up), H width of a gated half.
"""

from __future__ import annotations

import torch

from lynx_moe.errors import ExportError
from lynx_moe.export.built import Built
from lynx_moe.export.read import Adapted, BlockWeights
from lynx_moe.registry import Registry

HOSTS: Registry[type] = Registry("export host")

# VLM classes whose text_config is an AutoConfig slot: measured to build, save and reload with a foreign text
# architecture. Qwen-VL classes coerce text_config to their own class, PaliGemma and Gemma normalise differently: they
# take route "code".
OPEN_TEXT_SLOT = ("llava", "llava_next", "llava_onevision", "smolvlm", "idefics3", "internvl")

# Text architectures with Llama's attention (grouped queries, full rotary, scale 1/sqrt(head width)) and FFN.
LLAMA_LIKE = ("llama", "mistral", "qwen2", "qwen3")

COPIED = (
    "vocab_size hidden_size num_hidden_layers num_attention_heads num_key_value_heads head_dim hidden_act rms_norm_eps "
    "max_position_embeddings initializer_range use_cache attention_dropout tie_word_embeddings intermediate_size "
    "bos_token_id eos_token_id pad_token_id"
).split()


def refusal(adapted: Adapted) -> str | None:
    """Why no native host can hold this model, or None when `choose` will find one."""
    text = adapted.text_config
    kind = adapted.base.config.model_type
    if kind not in OPEN_TEXT_SLOT:
        return closed_slot(kind)
    if text.model_type not in LLAMA_LIKE:
        return f"no host has the attention and norms of a {text.model_type!r} text decoder"
    if adapted.quantised:
        return "the base's weights are quantised, and a host needs plain matrices"
    if adapted.gate == "off":
        return "the prompt gate is off, and a host would ship with it on"
    if getattr(text, "mlp_bias", False):
        return "the base's FFN has biases, and no host's shared expert has"
    if "sliding_attention" in (getattr(text, "layer_types", None) or ()) or (
        text.model_type == "mistral" and text.sliding_window
    ):
        return "the base uses sliding-window attention, and the hosts are measured with full attention only"
    reasons = [host.refusal(adapted) for _, host in _hosts()]
    return None if None in reasons else "; ".join(dict.fromkeys(reasons))


def closed_slot(kind: str) -> str:
    """The reason that holds for every model type outside `OPEN_TEXT_SLOT`."""
    return f"the class of a {kind!r} model accepts no other text architecture than its own"


def choose(adapted: Adapted) -> str:
    """Name of the host that holds this model.

    Raises:
        ExportError: none does.
    """
    reason = refusal(adapted)
    if reason is not None:
        raise ExportError(
            f"no native host for this {adapted.base.config.model_type} model",
            why=reason,
            fix="export with route='code'",
        )
    return next(name for name, host in _hosts() if host.refusal(adapted) is None)


def build(adapted: Adapted, host_name: str) -> Built:
    """The same VLM with a mixture-of-experts text decoder; tensors that keep their bytes are the live ones."""
    host = HOSTS.get(host_name)
    text = host.text_config(adapted)
    outer = adapted.base.config.to_dict()
    outer["text_config"] = text.to_dict()
    outer.pop("architectures", None)
    config = type(adapted.base.config).from_dict(outer)

    tensors, origin, folds = {}, {}, {}
    base = adapted.base_state()
    for name, tensor in base.items():
        layer = adapted.layer_of(name)
        weights = adapted.weights_of(layer) if layer is not None else None
        if layer is None or not host.is_sparse(text, layer):
            new_name, fold = name, None
        else:
            new_name, fold = host.shared(name, weights)
        origin[new_name] = name
        projection = name.removesuffix(".weight")
        if fold is not None:
            folds[new_name], factor = fold
            tensors[new_name] = _times(tensor, factor)
        elif projection in adapted.projections and projection != name:
            folds[new_name] = f"plus a delta of rank {adapted.config.attention_rank}"
            tensors[new_name] = _plus_delta(tensor, adapted.delta(projection))
        else:
            tensors[new_name] = tensor
    for layer in range(text.num_hidden_layers):
        if host.is_sparse(text, layer):
            path = adapted.ffn_paths[layer]
            for name, tensor in host.routed(text, adapted.weights_of(layer), adapted.dtype).items():
                tensors[f"{path}.{name}"] = tensor
    return Built(config=config, model_class=type(adapted.base), tensors=tensors, origin=origin, folds=folds)


def _hosts():
    return [(name, HOSTS.get(name)) for name in HOSTS.names()]


def _times(tensor: torch.Tensor, factor: float) -> torch.Tensor:
    # In float32 and rounded once: a factor of two stays exact in every dtype.
    return (tensor.float() * factor).to(tensor.dtype)


def _plus_delta(weight_OD: torch.Tensor, delta: torch.nn.Module) -> torch.Tensor:
    # A gate that is always open makes the delta part of the matrix; summed in float32 and rounded once.
    product_OD = delta.up_OR.detach().float() @ delta.down_RD.detach().float()
    return (weight_OD.float() + product_OD).to(weight_OD.dtype)


def _copied_text_fields(text) -> dict:
    fields = {name: getattr(text, name) for name in COPIED if hasattr(text, name)}
    fields["rope_parameters"] = {**text.rope_parameters, "partial_rotary_factor": 1.0}
    return fields


def _attention_bias(text) -> bool:
    # Qwen2 has biases on q, k, v by construction and no switch for them.
    return text.model_type == "qwen2" or bool(getattr(text, "attention_bias", False))


def _output_bias(text) -> bool:
    return text.model_type in ("llama", "mistral", "qwen3") and bool(getattr(text, "attention_bias", False))


def _pad_width(gate_up_EGD: torch.Tensor, down_EDH: torch.Tensor, width: int) -> tuple[torch.Tensor, torch.Tensor]:
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


@HOSTS.register("glm4_moe")
class Glm4Moe:
    """Additive mix: independent sigmoid weights, shared expert added as is; unwrapped layers get experts of zeros."""

    @staticmethod
    def refusal(adapted: Adapted) -> str | None:
        if adapted.config.mix != "additive":
            return f"glm4_moe adds sigmoid-weighted experts, and the mix here is {adapted.config.mix!r}"
        if _output_bias(adapted.text_config):
            return "the base's attention output has a bias, and glm4_moe's has not"
        if adapted.expert_width > adapted.text_config.intermediate_size:
            return "the new experts are wider than the frozen FFN, which glm4_moe counts in units of one expert"
        return None

    @staticmethod
    def text_config(adapted: Adapted):
        from transformers import Glm4MoeConfig

        text, settings = adapted.text_config, adapted.config
        width = Glm4Moe._expert_width(text.intermediate_size, adapted.expert_width)
        return Glm4MoeConfig(
            **_copied_text_fields(text),
            attention_bias=_attention_bias(text),
            use_qk_norm=text.model_type == "qwen3",
            moe_intermediate_size=width,
            n_shared_experts=text.intermediate_size // width,
            # The host's group-limited routing takes the best two of a group, so it cannot have a single expert: a
            # second one of zeros is added, and always chosen together with the first.
            n_routed_experts=max(2, settings.num_experts),
            num_experts_per_tok=2 if settings.num_experts == 1 else settings.top_k,
            n_group=1,
            topk_group=1,
            norm_topk_prob=False,
            routed_scaling_factor=1.0,
            first_k_dense_replace=min(adapted.wrapped_layers),
            num_mtp_layers=0,
        )

    @staticmethod
    def _expert_width(dense_width: int, expert_width: int) -> int:
        """Smallest divisor of the dense width that holds an expert: the host stores the shared expert in such units."""
        return next(width for width in range(expert_width, dense_width + 1) if dense_width % width == 0)

    @staticmethod
    def is_sparse(text, layer: int) -> bool:
        return layer >= text.first_k_dense_replace

    @staticmethod
    def shared(name: str, weights: BlockWeights | None):
        return _under(name, "shared_experts"), None

    @staticmethod
    def routed(text, weights: BlockWeights | None, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        num_experts, width, model_width = text.n_routed_experts, text.moe_intermediate_size, text.hidden_size
        router = torch.zeros(num_experts, model_width, dtype=dtype)
        gate_up = torch.zeros(num_experts, 2 * width, model_width, dtype=dtype)
        down = torch.zeros(num_experts, model_width, width, dtype=dtype)
        if weights is not None:
            own = weights.router_ED.shape[0]
            wide_up, wide_down = _pad_width(weights.gate_up_EGD, weights.down_EDH, width)
            router[:own], gate_up[:own], down[:own] = weights.router_ED, wide_up, wide_down
        return {
            "gate.weight": router,
            "gate.e_score_correction_bias": torch.zeros(num_experts, dtype=torch.float32),
            "experts.gate_up_proj": gate_up,
            "experts.down_proj": down,
        }


@HOSTS.register("qwen2_moe")
class Qwen2Moe:
    """Convex mix: softmax over the selected experts; alpha folded into the down projections; any subset of layers.

    The host multiplies its shared expert by sigmoid(gate(x)); a gate of zeros makes that one half, hence the factor
    two.
    """

    @staticmethod
    def refusal(adapted: Adapted) -> str | None:
        if adapted.config.mix != "convex":
            return f"qwen2_moe normalises its routed weights to one, and the mix here is {adapted.config.mix!r}"
        if adapted.text_config.model_type == "qwen3":
            return "the base normalises queries and keys, and qwen2_moe does not"
        if _output_bias(adapted.text_config):
            return "the base's attention output has a bias, and qwen2_moe's has not"
        return None

    @staticmethod
    def text_config(adapted: Adapted):
        from transformers import Qwen2MoeConfig

        text, settings = adapted.text_config, adapted.config
        fields = _copied_text_fields(text)
        return Qwen2MoeConfig(
            **fields,
            qkv_bias=_attention_bias(text),
            moe_intermediate_size=adapted.expert_width,
            shared_expert_intermediate_size=text.intermediate_size,
            num_experts=settings.num_experts,
            num_experts_per_tok=settings.top_k,
            norm_topk_prob=True,
            decoder_sparse_step=1,
            mlp_only_layers=[i for i in range(text.num_hidden_layers) if i not in adapted.wrapped_layers],
        )

    @staticmethod
    def is_sparse(text, layer: int) -> bool:
        return layer not in text.mlp_only_layers

    @staticmethod
    def shared(name: str, weights: BlockWeights):
        if not name.endswith("down_proj.weight"):
            return _under(name, "shared_expert"), None
        factor = 2.0 * weights.alpha
        return _under(name, "shared_expert"), (f"times 2 alpha = {factor!r}", factor)

    @staticmethod
    def routed(text, weights: BlockWeights, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        return {
            "gate.weight": weights.router_ED.to(dtype),
            "experts.gate_up_proj": weights.gate_up_EGD.to(dtype),
            "experts.down_proj": (weights.down_EDH.float() * (1.0 - weights.alpha)).to(dtype),
            "shared_expert_gate.weight": torch.zeros(1, text.hidden_size, dtype=dtype),
        }


def _under(name: str, child: str) -> str:
    """`...mlp.up_proj.weight` to `...mlp.<child>.up_proj.weight`."""
    block, matrix, leaf = name.rsplit(".", 2)
    return f"{block}.{child}.{matrix}.{leaf}"
