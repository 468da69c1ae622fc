"""Run folders as a run leaves them, written by hand."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from lynx_moe.training.settings import AdapterSettings, Settings


def write_run(
    folder: Path,
    *,
    strength: float = 0.01,
    acc50: float | None = 0.5,
    before: float | None = 0.9,
    lost: int = 0,
    won: int = 0,
    asked: int = 400,
    gate: float | None = 0.5,
    layers: int = 3,
    seed: int = 0,
    **adapter,
) -> Path:
    """A finished run; `before` None: nothing was measured; `gate` None: a baseline without gates."""
    settings = asdict(
        Settings(adapter=AdapterSettings(gate_sparsity=strength, **adapter), output_dir=str(folder), seed=seed)
    )
    card = {"train": {"steps": 10, "seconds": 12.5}, "settings": settings, "gates": {}}
    if gate is not None:
        card["gates"] = {
            f"model.language_model.layers.{2 * k}.mlp": {
                "grounding_gate": gate * (k + 1) / layers,
                "understanding_gate": gate / 4,
                "expert_share": [0.5, 0.5],
            }
            for k in range(layers)
        }
    if before is not None:
        after = before + (won - lost) / asked
        change = {"n": asked, "lost": lost, "won": won, "same_text": 0.9, "mcnemar_p": 0.5}
        card["evaluation"] = {
            "before": {"grounding": {"acc50": 0.0, "mean_iou": 0.0}, "retention": {"n": asked, "accuracy": before}},
            "after": {"grounding": {"acc50": acc50, "mean_iou": 0.4}, "retention": {"n": asked, "accuracy": after}},
            "change": change,
        }
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(card))
    return folder


def write_failure(folder: Path, what: str = "top_k=5 with num_experts=4") -> Path:
    folder.mkdir(parents=True)
    reason = {"type": "ConfigError", "what": what, "why": "too many", "fix": "use top_k=4", "command": "c"}
    (folder / "failed.json").write_text(json.dumps(reason))
    return folder
