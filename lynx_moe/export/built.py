"""A model that is about to be written: its class, config and tensors, and where each tensor came from."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from lynx_moe.errors import ExportError
from lynx_moe.export.fresh import tensor_sha256


@dataclass(frozen=True)
class Built:
    """A model to be written: its config, every tensor by module name, and what was folded.

    `origin` maps a name here to the base tensor it came from; `folds` says what was done to it, for the names whose
    bytes differ from the base's.
    """

    config: object
    model_class: type
    tensors: dict[str, torch.Tensor]
    origin: dict[str, str]
    folds: dict[str, str] = field(default_factory=dict)


def instantiate(built: Built):
    """The model of `built` around its tensors, without a copy of them.

    Raises:
        ExportError: names or shapes do not fit, which means that the base has a structure this library has not met.
    """
    with torch.device("meta"):
        model = built.model_class(built.config)
    try:
        model.load_state_dict(built.tensors, strict=True, assign=True)
    except RuntimeError as error:
        raise ExportError(
            f"the tensors do not fit {built.model_class.__name__}",
            why=str(error)[:2000],
            fix="export with route='adapter'",
        ) from error
    model.tie_weights()
    return model.eval()


def account(built: Built, base_hashes: dict[str, str]) -> tuple[dict, dict]:
    """For every tensor of the export its hash, and where it came from: the base's bytes, the base's folded, or new.

    Raises:
        ExportError: a tensor that should be the base's has other bytes, or a base tensor is left out.
    """
    tensors, unchanged = {}, 0
    for name, tensor in built.tensors.items():
        entry = {"sha256": tensor_sha256(tensor)}
        if name in built.origin:
            entry["base"] = built.origin[name]
            if name in built.folds:
                entry["fold"] = built.folds[name]
            elif entry["sha256"] != base_hashes[entry["base"]]:
                raise ExportError(
                    f"{name} lost the base's bytes",
                    why="it was changed while the export was built",
                    fix="report this bug",
                )
            else:
                unchanged += 1
        tensors[name] = entry
    left_out = sorted(set(base_hashes) - set(built.origin.values()))
    if left_out:
        raise ExportError(
            f"{left_out[0]} is not in the export", why="no rule carries it over", fix="use route='adapter'"
        )
    return tensors, {"unchanged": unchanged, "folded": len(built.folds)}
