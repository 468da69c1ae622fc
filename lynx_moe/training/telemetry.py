"""How the gates of a trained adapter stand: on grounding answers, on understanding answers, and who does the work."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from lynx_moe.adapter import record_routing, set_gate
from lynx_moe.training.loss import forward_inputs
from lynx_moe.training.method import is_gated


def gate_telemetry(model: nn.Module, batches: Sequence[dict[str, torch.Tensor]]) -> dict[str, dict]:
    """Per block: mean gate over grounding rows and over understanding rows, and each new expert's share of the tokens;
    nothing for a baseline, which has no gates.

    Args:
        batches: as the collator makes them, unpacked, on the model's device. The prompt gate is held open: a shut one
            would hide what the gates inside would do.
    """
    if not is_gated(model):
        return {}
    gates: dict[str, dict[str, list[torch.Tensor]]] = {}
    used: dict[str, torch.Tensor] = {}
    was_training = model.training
    model.eval()
    for batch in batches:
        with torch.no_grad(), set_gate(model, True), record_routing(model) as routing:
            model(**forward_inputs(batch))
        there_BL = batch["attention_mask"].bool().cpu()
        grounding_BL = batch["is_grounding"].bool().any(dim=1).cpu()[:, None].expand_as(there_BL)
        for name, seen in routing.items():
            kinds = gates.setdefault(name, {"grounding": [], "understanding": []})
            gate_TG = seen["gate"].expand(there_BL.numel(), -1)
            kinds["grounding"].append(gate_TG[(there_BL & grounding_BL).reshape(-1)].reshape(-1))
            kinds["understanding"].append(gate_TG[(there_BL & ~grounding_BL).reshape(-1)].reshape(-1))
            experts = seen["experts_TK"][there_BL.reshape(-1)].reshape(-1)
            counts = torch.bincount(experts, minlength=num_experts(model))
            used[name] = used.get(name, 0) + counts
    model.train(was_training)
    return {
        name: {
            **{f"{kind}_gate": mean(values) for kind, values in kinds.items()},
            "expert_share": [round(share, 4) for share in (used[name] / used[name].sum().clamp(min=1)).tolist()],
        }
        for name, kinds in gates.items()
    }


def num_experts(model: nn.Module) -> int:
    return model.peft_config[model.active_adapters[0]].num_experts


def mean(values: list[torch.Tensor]) -> float | None:
    together = torch.cat(values)
    return together.float().mean().item() if together.numel() else None
