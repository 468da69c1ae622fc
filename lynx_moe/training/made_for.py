"""What a checkpoint was made for, and the refusal to go on with it on anything else."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from torch import nn

from lynx_moe.adapter import LynxConfig
from lynx_moe.errors import CheckpointError
from lynx_moe.training.settings import DataSettings

# What of an adapter's config may change from one step to the next: strengths, how it began, and what is noted only.
# Where it sits stays, as the full names of its modules.
MAY_CHANGE = {
    "gate_sparsity", "sparsity_penalty", "balance", "router_z", "retention_kl", "alpha_init", "expert_init", "layers",
    "base", "base_model_name_or_path", "inference_mode", "peft_version", "auto_mapping", "revision",
}  # fmt: skip


def made_for(base_sha256: str, data: DataSettings, model: nn.Module) -> dict:
    """What a checkpoint's manifest says of its base, its data and its adapter, as JSON gives it back."""
    config = model.peft_config[model.active_adapter].to_dict()
    adapter = {name: value for name, value in config.items() if name not in MAY_CHANGE}
    content = {"base": base_sha256, "data": data_sha256(data), "adapter": adapter}
    return json.loads(
        json.dumps(content, default=lambda value: sorted(value) if isinstance(value, set) else str(value))
    )


def data_sha256(data: DataSettings) -> str:
    """Of what the records' manifest says of the splits in use, the sha256 of their files included.

    Other splits may come and go. Of the whole manifest where it does not tell splits apart.
    """
    content = (Path(data.folder) / "manifest.json").read_bytes()
    splits = json.loads(content).get("splits") or {}
    used = sorted({data.split, data.prompts or data.split, data.held_out} & splits.keys())
    if data.split in used:
        content = json.dumps([splits[name] for name in used], sort_keys=True).encode()
    return hashlib.sha256(content).hexdigest()


def refuse_another(before: dict, now: dict, checkpoint: Path) -> None:
    """Raises CheckpointError when a checkpoint was made for another base, other data or another adapter."""
    one, other = before["adapter"], now["adapter"]
    # A setting that the checkpoint's version did not have was as it is where nobody sets it.
    one = {name: value for name, value in LynxConfig().to_dict().items() if name in other} | one
    names = [name for name in one.keys() | other.keys() if one.get(name) != other.get(name)]
    adapter = [f"{name} was {one.get(name)}, is {other.get(name)}" for name in sorted(names)]
    problems = {
        "another base": [] if before["base"] == now["base"] else [f"sha256 was {before['base']}, is {now['base']}"],
        "other data": [] if before["data"] == now["data"] else ["the records were made anew or changed since"],
        "another adapter": adapter,
    }
    for what, differs in problems.items():
        if differs:
            raise CheckpointError(
                f"{checkpoint} was made for {what}: {'; '.join(differs)}",
                why="what it holds would mean nothing, or something else, here",
                fix="bring back what the run was started with, or start again with overwrite=true trainer.resume=never",
            )
