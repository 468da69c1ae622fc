"""Route "vllm": a dense Qwen3-VL with new experts, as the checkpoint of a qwen3_vl_moe that has a shared expert.

Transformers has no such model: its Qwen3-VL-MoE knows no shared expert and would leave those tensors out with nothing
but a warning. vLLM's has one (`Qwen3MoeSparseMoeBlock` in its `qwen3_moe.py`, switched on by
`shared_expert_intermediate_size`), with sigmoid(gate(x)) before it; deepstack and positions on three axes are those of
its dense Qwen3-VL. This was read in vLLM's source, 0.33, and not run there. The tests hold the written tensors against
a reference forward of their own, made from those rules.

Names and layout are the hub's: experts lie transposed, `[E, D, G]` and `[E, H, D]` (legend in native/host.py).
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from lynx_moe.export.built import Built
from lynx_moe.export.native import softmax
from lynx_moe.export.native.building import placed
from lynx_moe.export.native.choosing import BOUND
from lynx_moe.export.native.host import Experts, rebuilt
from lynx_moe.export.native.qwen2_moe import Qwen2Moe
from lynx_moe.export.promise import Promise
from lynx_moe.export.read import Adapted, BlockWeights

ONLY = "for vLLM only: transformers would load it without the frozen FFNs of the wrapped layers, with only a warning"

_EXPERTS = ("mlp.experts.gate_up_proj", "mlp.experts.down_proj")


class Qwen3VlMoe(Qwen2Moe):
    """qwen2_moe's block around Qwen3's attention, with the experts transposed."""

    name = "qwen3_vl_moe"
    decoders = ("qwen3_vl_text",)

    def slot_refusal(self, adapted: Adapted) -> str | None:
        kind = adapted.base.config.model_type
        return None if kind == "qwen3_vl" else f"the base is a {kind!r} model, and this route is for 'qwen3_vl' alone"

    def refusal(self, adapted: Adapted) -> str | None:
        if adapted.text_config.hidden_act != "silu":
            return f"vLLM's qwen3_vl_moe knows silu only, and the base has {adapted.text_config.hidden_act!r}"
        if adapted.config.expert_kind != "gated":
            return "the new experts are plain, and vLLM's qwen3_vl_moe has gated ones"
        return softmax.mix_refusal(adapted, self.name)

    def text_config(self, adapted: Adapted):
        from transformers import Qwen3VLMoeTextConfig

        text = adapted.text_config
        fields = {key: value for key, value in text.to_dict().items() if key not in ("model_type", "architectures")}
        # vLLM asks the text config whether the head is tied.
        fields["tie_word_embeddings"] = bool(adapted.base.config.tie_word_embeddings)
        return Qwen3VLMoeTextConfig(**fields, **self.expert_fields(adapted))

    def outer(self, adapted: Adapted, text) -> tuple[object, type]:
        from transformers import Qwen3VLMoeConfig, Qwen3VLMoeForConditionalGeneration

        vision = adapted.base.config.vision_config.to_dict() | {"model_type": "qwen3_vl_moe_vision"}
        config = rebuilt(Qwen3VLMoeConfig, adapted, text, vision_config=vision)
        config.architectures = [Qwen3VLMoeForConditionalGeneration.__name__]
        config.lynx_moe = ONLY
        return config, Qwen3VLMoeForConditionalGeneration

    def routed(self, text, weights: BlockWeights | None, dtype: torch.dtype) -> dict[str, Tensor]:
        layer = super().routed(text, weights, dtype)
        return layer | {name: layer[name].transpose(1, 2).contiguous() for name in _EXPERTS}

    def experts(self, layer: dict[str, Tensor], num_experts: int, expert_width: int) -> Experts:
        layer = layer | {name: layer[name].transpose(1, 2).contiguous() for name in _EXPERTS}
        return super().experts(layer, num_experts, expert_width)


HOST = Qwen3VlMoe()


def refusal(adapted: Adapted) -> str | None:
    """Why vLLM's qwen3_vl_moe cannot hold this model, or None."""
    if reason := HOST.slot_refusal(adapted):
        return reason
    if adapted.quantised:
        return "the base's weights are quantised, and the host needs plain matrices"
    if adapted.gate == "off":
        return "the prompt gate is off, and the host would ship with it on"
    return HOST.refusal(adapted)


def promise(adapted: Adapted) -> Promise:
    """What the written checkpoint keeps, and that only vLLM can read it."""
    costs = [ONLY, "vLLM was read, not run: compare a few answers before you rely on it"]
    if adapted.gate == "auto":
        costs.append("the gate ships on: measure retention on the served model, not on the adapter")
    if adapted.projections:
        costs.append(f"deltas are added into {len(adapted.projections)} attention matrices: not the base's bytes")
    return Promise(
        HOST.name,
        "rounding",
        BOUND,
        "the live model with its gate on, up to rounding, where vLLM serves it",
        tuple(costs),
        {"transformers": f"no: {ONLY}", "vllm": "yes, by source", "sglang": "unknown"},
    )


def build(adapted: Adapted, folder: Path | None = None) -> Built:
    """Config and tensors of the checkpoint, by the names that it is written with; nothing is written yet."""
    return placed(adapted, HOST, HOST.text_config(adapted))


def save(built: Built, folder: Path, max_shard_size: str = "5GB") -> None:
    """config.json and the tensors, in shards with an index where there are several. No model is built for it.

    A tied head is not written, as in the hub's own checkpoints.
    """
    from huggingface_hub import save_torch_state_dict

    tensors = dict(built.tensors)
    if built.config.tie_word_embeddings:
        tensors.pop("lm_head.weight", None)
    built.config.dtype = next(iter(tensors.values())).dtype
    built.config.save_pretrained(folder)
    # Transformers writes this under another name since its version 5, older ones and the hub's files have this one.
    path = folder / "config.json"
    written = json.loads(path.read_text(encoding="utf-8"))
    written["text_config"]["num_experts"] = built.config.text_config.num_experts
    path.write_text(json.dumps(written, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    save_torch_state_dict(tensors, str(folder), max_shard_size=max_shard_size, metadata={"format": "pt"})


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a written checkpoint, a tied head among them."""
    tensors = {}
    for path in sorted(folder.glob("model*.safetensors")):
        with safe_open(path, "pt") as file:
            tensors |= {key: file.get_tensor(key) for key in file.keys()}
    if "lm_head.weight" not in tensors:
        tensors["lm_head.weight"] = tensors["model.language_model.embed_tokens.weight"]
    return tensors
