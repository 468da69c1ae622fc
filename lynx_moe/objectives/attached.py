"""Where the heads of objectives live in a model, and the file they are kept in.

They stand beside the base in the adapter's tuner, under a name that begins as the adapter's own names do. So whatever
handles the adapter's weights (optimiser, resume, DDP, ZeRO, FSDP2, the watches) handles theirs; but they are no part of
the adapter that is saved, which loads as any other.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lynx_moe.data.targets import TargetMaker
from lynx_moe.errors import CheckpointError
from lynx_moe.families.last_states import decoder_of, width_of
from lynx_moe.objectives.base import GOES_WITH, OBJECTIVES, Objective

FILE = "heads.safetensors"  # beside the adapter's own
SETTINGS = "plain"  # of its header: settings of each head by name, as JSON


def attach_objectives(model: nn.Module, chosen: Mapping[str, dict[str, Any]], seed: int = 0) -> None:
    """Gives the PEFT model fresh heads, the same for a seed; nothing where none is chosen.

    What is drawn afterwards is what it would be without them.

    Args:
        chosen: settings of each objective by its name; as saved where its weights are to follow.

    Raises:
        FamilyError: there is no telling where the text decoder is. ConfigError: one needs another that is not chosen.
        CheckpointError: saved ones go with something else than what is here.
    """
    if not chosen:
        return
    base = model.get_base_model()
    decoder_of(base)  # raises
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)  # `manual_seed` would seed every GPU too
        for name, own in chosen.items():
            OBJECTIVES.get(name).goes_beside(own, chosen)
        plain = {name: {k: value for k, value in own.items() if k != GOES_WITH} for name, own in chosen.items()}
        heads = nn.ModuleDict({name: OBJECTIVES.get(name)(width_of(base), **own) for name, own in plain.items()})
        for head in heads.values():
            head.meet(dict(heads.items()))
    for name, own in plain.items():
        heads[name].settings = own
        heads[name].goes_on_from(chosen[name])
    setattr(model.base_model, name_of_heads(model), heads.to(device=base.device, dtype=torch.float32))


def name_of_heads(model: nn.Module) -> str:
    return f"{model.base_model.prefix}heads"


def heads_of(model: nn.Module) -> dict[str, Objective]:
    """The objectives of a PEFT model, by name; none for most, and none for a model without an adapter."""
    tuner = getattr(model, "base_model", None)
    held = tuner._modules.get(name_of_heads(model)) if hasattr(tuner, "prefix") else None
    return dict(held.items()) if held is not None else {}


def serving_heads(model: nn.Module) -> dict[str, Objective]:
    """Those that take part in what a model answers now: none while its adapter is disabled."""
    if any(getattr(module, "disable_adapters", None) is True for module in model.modules()):
        return {}
    return {name: head for name, head in heads_of(model).items() if head.serves}


def targets_of(heads: Mapping[str, Objective]) -> list[TargetMaker]:
    """What makes the targets of heads, as these were made."""
    return [head.target_maker(head.settings) for head in heads.values()]


def is_head(name: str) -> bool:
    """Whether a tensor of a PEFT model, by its name, is a head's.

    >>> is_head("base_model.lynx_heads.regions.box.0.weight"), is_head("base_model.model.lm_head.weight")
    (True, False)
    """
    return any(part.endswith("_heads") for part in name.split(".")[1:2])


def read_heads(folder: Path) -> tuple[dict[str, Tensor], dict[str, dict[str, Any]]]:
    """Weights of the heads of a checkpoint by name, and settings of each objective by its name.

    Raises:
        CheckpointError: the file is not of heads.
    """
    try:
        with safe_open(folder / FILE, "pt") as file:
            settings = {name: dict(own) for name, own in json.loads(file.metadata()[SETTINGS]).items()}
            return {name: file.get_tensor(name) for name in file.keys()}, settings
    except Exception as problem:
        raise CheckpointError(
            f"{folder / FILE} holds no heads", why=str(problem), fix="copy the folder again, or train again"
        ) from problem


def settings_of(folder: Path) -> dict[str, dict[str, Any]]:
    """Settings of each objective that what is in `folder` was trained with, by name; none where it does not say.

    Raises:
        CheckpointError: the file is not of heads.
    """
    return read_heads(folder)[1] if (folder / FILE).is_file() else {}


def saved_settings(model: nn.Module) -> dict[str, dict[str, Any]]:
    """What `read_heads` is to give of the model's heads: settings of each by its name, and what it goes with."""
    return {name: head.settings | {GOES_WITH: head.goes_with} for name, head in heads_of(model).items()}


def put_heads(model: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    """Puts weights into the model's heads, in place; names of what is missing, left over or of another shape, in which
    case nothing was put.
    """
    own = {name: p for name, p in model.state_dict(keep_vars=True).items() if is_head(name)}
    wrong = sorted(n for n in own.keys() | state.keys() if n not in own or n not in state)
    wrong += sorted(n for n in own.keys() & state.keys() if own[n].shape != state[n].shape)
    if not wrong:
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(state[name])
    return wrong


def write_serving(model: nn.Module, folder: Path) -> None:
    """Writes the heads that answers need into `folder`, for `attach_serving`; nothing where there are none."""
    chosen = {name: own for name, own in saved_settings(model).items() if heads_of(model)[name].serves}
    own = f"base_model.{name_of_heads(model)}."
    state = {
        n: t.cpu().contiguous() for n, t in model.state_dict().items() if n.removeprefix(own).split(".")[0] in chosen
    }
    if state:
        save_file(state, folder / FILE, metadata={SETTINGS: json.dumps(chosen)})


def attach_serving(model: nn.Module, folder: Path) -> None:
    """Gives a loaded model the heads that its answers need, where `folder` holds any; the others are left out.

    Raises:
        CheckpointError: the file is not of heads, or of those of another model.
    """
    if not (folder / FILE).is_file():
        return
    state, settings = read_heads(folder)
    known = {name: own for name, own in settings.items() if name in OBJECTIVES.names()}
    chosen = {name: own for name, own in known.items() if OBJECTIVES.get(name).serves}
    try:
        attach_objectives(model, chosen)
    except (TypeError, RuntimeError, KeyError) as problem:
        raise CheckpointError(
            f"the heads in {folder} cannot be made as their settings say",
            why=f"{type(problem).__name__}: {problem}",
            fix="load them with the version of lynx_moe that trained them, or copy the folder again",
        ) from problem
    own = f"base_model.{name_of_heads(model)}."
    if wrong := put_heads(model, {n: t for n, t in state.items() if n.removeprefix(own).split(".")[0] in chosen}):
        raise CheckpointError(
            f"the heads in {folder} are of another model",
            why=f"{len(wrong)} of their tensors do not fit, the first is {wrong[0]}",
            fix="load them with the base that they were trained beside",
        )
    if chosen:
        model.base_model._modules[name_of_heads(model)].requires_grad_(False).eval()
