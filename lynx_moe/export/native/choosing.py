"""Which host holds a model, and what that is worth."""

from __future__ import annotations

import torch

from lynx_moe.errors import ExportError
from lynx_moe.export.native.host import HOSTS, Host, closed_slot
from lynx_moe.export.native.slots import OPEN_TEXT_SLOTS
from lynx_moe.export.promise import Promise
from lynx_moe.export.read import Adapted

# Of the largest logit, in float32: the sums are those of the live model in another order. Measured on every pair of
# decoder and class in the tests, which stay below 2e-6.
BOUND = 1e-5


def refusal(adapted: Adapted) -> str | None:
    """Why no native host can hold this model, or None when `choose` will find one."""
    text = adapted.text_config
    kind = adapted.base.config.model_type
    by_slot = [host.slot_refusal(adapted) for host in _hosts() if _may_hold(host, text.model_type)]
    if kind not in OPEN_TEXT_SLOTS and None not in by_slot:
        return closed_slot(kind)
    if not by_slot:
        return f"no host has the attention and norms of a {text.model_type!r} text decoder"
    if adapted.quantised:
        return "the base's weights are quantised, and a host needs plain matrices"
    if adapted.gate == "off":
        return "the prompt gate is off, and a host would ship with it on"
    if adapted.config.expert_kind != "gated":
        return "the new experts are plain, and every host's are gated"
    if getattr(text, "mlp_bias", False):
        return "the base's FFN has biases, and no host's shared expert has"
    reasons = [reason for reason in (_refusal_by(host, adapted) for host in _hosts(text.model_type)) if reason]
    return None if len(reasons) < len(_hosts(text.model_type)) else "; ".join(dict.fromkeys(reasons))


def choose(adapted: Adapted) -> str:
    """Name of the host that holds this model; of several the one with the fewest experts that do nothing.

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
    able = [host for host in _hosts(adapted.text_config.model_type) if _refusal_by(host, adapted) is None]
    return min(able, key=lambda host: (len(idle_layers(host, adapted)), host.rank, host.name)).name


def promise(adapted: Adapted) -> Promise:
    """What the chosen host keeps, and what it costs.

    Raises:
        ExportError: no host holds this model.
    """
    host = HOSTS.get(choose(adapted))
    keeps = "the same function wherever the new experts speak, up to the rounding of another order of additions"
    costs = []
    if adapted.gate == "auto":
        keeps = "the live model with its gate on, up to rounding; the per-prompt gate is dropped"
        costs.append("the gate ships on: measure retention on the exported model, not on the adapter")
    if adapted.config.mix == "convex":
        costs.append("alpha is folded into the down projections: they are not the base's bytes any more")
    elif host.place("down_proj", None).factor != 1.0:
        costs.append("the wrapped down projections are the base's times two, which is exact and can be undone")
    if adapted.projections:
        costs.append(f"deltas are added into {len(adapted.projections)} attention matrices: not the base's bytes")
    if adapted.dtype != torch.float32 and adapted.router_dtype == torch.float32:
        costs.append(f"the router is stored in {_short(adapted.dtype)}, as the host has it")
    if (
        adapted.dtype != torch.float32
        and not host.scores_in_float32
        and adapted.config.top_k < adapted.config.num_experts
    ):
        costs.append(
            f"the host scores experts in {_short(adapted.dtype)}: where two score nearly alike it may choose the other"
        )
    if idle := idle_layers(host, adapted):
        costs.append(f"{len(idle)} layers without new experts get experts of zeros, which are computed and add nothing")
    return Promise(host.name, "rounding", BOUND, keeps, tuple(costs), served_by(host, adapted))


def served_by(host: Host, adapted: Adapted) -> dict[str, str]:
    """Who can run the export without code of ours: transformers as tested, vLLM as its source says."""
    return {"transformers": "yes", "vllm": host.in_vllm(adapted), "sglang": "unknown"}


def idle_layers(host: Host, adapted: Adapted) -> list[int]:
    """Layers that the host gives experts although the adapter has none there."""
    if not host.every_layer:
        return []
    text = host.text_config(adapted)
    return [i for i in range(text.num_hidden_layers) if host.is_sparse(text, i) and i not in adapted.wrapped_layers]


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _refusal_by(host: Host, adapted: Adapted) -> str | None:
    return host.slot_refusal(adapted) or host.refusal(adapted)


def _may_hold(host: Host, text_kind: str) -> bool:
    return text_kind in host.decoders


def _hosts(text_kind: str | None = None) -> list[Host]:
    hosts = [HOSTS.get(name) for name in HOSTS.names()]
    return [host for host in hosts if text_kind is None or _may_hold(host, text_kind)]
