"""A forward of Qwen3-VL-MoE with a shared expert, written from what vLLM's source does with such a checkpoint.

It shares nothing with the library but the folder: it reads config.json and the safetensors, renames the tensors as
vLLM's weight mappers do, and computes the decoder with plain matrix products. Rules, from vLLM 0.33 (Apache-2.0):

    models/qwen3_vl.py       model.visual. -> visual., lm_head. -> language_model.lm_head.,
                             model.language_model. -> language_model.model.
    models/qwen3_moe.py      .q_proj, .k_proj, .v_proj -> .qkv_proj; .mlp.gate_proj, .mlp.up_proj -> .mlp.gate_up_proj;
                             .shared_expert.gate_proj, .up_proj -> .shared_expert.gate_up_proj; a layer is dense when
                             mlp_only_layers names it; the shared expert is there when shared_expert_intermediate_size
                             is not zero, and its output is multiplied with sigmoid(shared_expert_gate(x));
                             the router is a softmax over all experts, the best k of it, divided by their sum when
                             norm_topk_prob says so
    models/qwen3_vl_moe.py   fused expert tensors lie transposed: [E, D, 2H] and [E, H, D]; picture features of several
                             depths are added to the output of the first layers

Pictures are turned into features by the vision tower that vLLM shares with its dense Qwen3-VL: the caller gives them,
and the positions on three axes, which are the processor's.
"""

import json

import torch
from safetensors.torch import load_file
from torch.nn import functional as F

PREFIXES = {
    "model.visual.": "visual.",
    "lm_head.": "language_model.lm_head.",
    "model.language_model.": "language_model.model.",
}
STACKED = {
    ".q_proj": (".qkv_proj", 0),
    ".k_proj": (".qkv_proj", 1),
    ".v_proj": (".qkv_proj", 2),
    ".mlp.gate_proj": (".mlp.gate_up_proj", 0),
    ".mlp.up_proj": (".mlp.gate_up_proj", 1),
    ".shared_expert.gate_proj": (".shared_expert.gate_up_proj", 0),
    ".shared_expert.up_proj": (".shared_expert.gate_up_proj", 1),
}


def read(folder):
    """The text config as it was written, and the parameters as vLLM would hold them."""
    config = json.loads((folder / "config.json").read_text())
    assert (config["model_type"], config["architectures"]) == ("qwen3_vl_moe", ["Qwen3VLMoeForConditionalGeneration"])
    written = {}
    for path in folder.glob("model*.safetensors"):
        written |= load_file(path)
    held, parts = {}, {}
    for name, tensor in written.items():
        prefix = next(p for p in PREFIXES if name.startswith(p))
        name = PREFIXES[prefix] + name.removeprefix(prefix)
        part = next((old for old in STACKED if f"{old}." in name), None)
        if part is None:
            held[name] = tensor
        else:
            new, place = STACKED[part]
            parts.setdefault(name.replace(part, new), {})[place] = tensor
    held |= {name: torch.cat([found[i] for i in sorted(found)]) for name, found in parts.items()}
    return config["text_config"], held


def rms(x, weight, eps):
    x32 = x.float()
    return weight * (x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype)


def silu_and_mul(gate_up):
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up


def rotary(positions_3BT, text, width):
    """Cosine and sine `(B, T, width)`; the three axes take turns along the frequencies."""
    rope = text["rope_parameters"]
    inverse = 1.0 / rope["rope_theta"] ** (torch.arange(0, width, 2).float() / width)
    angles_3BTH = positions_3BT[..., None].float() * inverse
    mixed = angles_3BTH[0].clone()
    for axis in (1, 2):
        places = slice(axis, rope["mrope_section"][axis] * 3, 3)
        mixed[..., places] = angles_3BTH[axis][..., places]
    angles = torch.cat([mixed, mixed], dim=-1)
    return angles.cos(), angles.sin()


def turned(x, cos, sin):
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


def attention(x, p, at, text, cos, sin, allowed_B1TT):
    batch, length, _ = x.shape
    heads, kv_heads, width = text["num_attention_heads"], text["num_key_value_heads"], text["head_dim"]
    qkv = F.linear(x, p[f"{at}.qkv_proj.weight"])
    q, k, v = qkv.split([heads * width, kv_heads * width, kv_heads * width], dim=-1)
    q, k, v = (t.view(batch, length, -1, width).transpose(1, 2) for t in (q, k, v))
    eps = text["rms_norm_eps"]
    q = turned(rms(q, p[f"{at}.q_norm.weight"], eps), cos[:, None], sin[:, None])
    k = turned(rms(k, p[f"{at}.k_norm.weight"], eps), cos[:, None], sin[:, None])
    k, v = (t.repeat_interleave(heads // kv_heads, dim=1) for t in (k, v))
    scores = (q @ k.transpose(-1, -2)) * width**-0.5
    weights = scores.masked_fill(~allowed_B1TT, torch.finfo(scores.dtype).min).softmax(-1)
    return F.linear((weights @ v).transpose(1, 2).reshape(batch, length, -1), p[f"{at}.o_proj.weight"])


def feed_forward(x, p, at, text, layer):
    if layer in text["mlp_only_layers"] or (layer + 1) % text["decoder_sparse_step"]:
        return F.linear(silu_and_mul(F.linear(x, p[f"{at}.gate_up_proj.weight"])), p[f"{at}.down_proj.weight"])
    y = torch.zeros_like(x)
    if text.get("shared_expert_intermediate_size", 0) > 0:
        inner = silu_and_mul(F.linear(x, p[f"{at}.shared_expert.gate_up_proj.weight"]))
        y = F.linear(inner, p[f"{at}.shared_expert.down_proj.weight"])
        y = F.linear(x, p[f"{at}.shared_expert_gate.weight"]).sigmoid() * y
    shares, chosen = F.linear(x, p[f"{at}.gate.weight"]).softmax(-1).topk(text["num_experts_per_tok"], dim=-1)
    if text["norm_topk_prob"]:
        shares = shares / shares.sum(-1, keepdim=True)
    for expert in range(text["num_experts"]):
        w13 = p[f"{at}.experts.gate_up_proj"][expert].T  # transposed on disk
        w2 = p[f"{at}.experts.down_proj"][expert].T
        share = (shares * (chosen == expert)).sum(-1, keepdim=True)
        y = y + share * F.linear(silu_and_mul(F.linear(x, w13)), w2)
    return y


def logits(folder, embeddings_BTD, positions_3BT, mask_BT, deep):
    """Of the written folder, for input embeddings with the picture's features already in their places.

    `deep` has, for each of the first layers, what is added to its output, `(B, T, D)`.
    """
    text, p = read(folder)
    top = "language_model.model"
    length = embeddings_BTD.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    allowed = causal[None, None] & mask_BT[:, None, None, :].bool()
    cos, sin = rotary(positions_3BT, text, text["head_dim"])
    x, eps = embeddings_BTD, text["rms_norm_eps"]
    for layer in range(text["num_hidden_layers"]):
        at = f"{top}.layers.{layer}"
        x = x + attention(rms(x, p[f"{at}.input_layernorm.weight"], eps), p, f"{at}.self_attn", text, cos, sin, allowed)
        x = x + feed_forward(rms(x, p[f"{at}.post_attention_layernorm.weight"], eps), p, f"{at}.mlp", text, layer)
        if layer < len(deep):
            x = x + deep[layer]
    head = f"{top}.embed_tokens" if text["tie_word_embeddings"] else "language_model.lm_head"
    return F.linear(rms(x, p[f"{top}.norm.weight"], eps), p[f"{head}.weight"])
