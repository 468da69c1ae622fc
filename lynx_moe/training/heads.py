"""Objectives beside the answer inside the trained model: where they live, what trains with them, how they are saved.

They stand beside the base in the adapter's tuner, under a name that begins as the adapter's own names do. So whatever
handles the adapter's weights (optimiser, resume, DDP, ZeRO, FSDP2, the watches) handles theirs; but they are no part of
the adapter that is saved, which loads as any other, and of no export.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from lynx_moe.data import RecordSet, SampleBuilder
from lynx_moe.data.screening import evenly
from lynx_moe.data.targets import TargetMaker
from lynx_moe.errors import CheckpointError, LynxError, RecordError
from lynx_moe.families.last_states import decoder_of, width_of
from lynx_moe.objectives import OBJECTIVES, Objective
from lynx_moe.training.settings import Settings
from lynx_moe.training.sharding import whole_state
from lynx_moe.training.state import read_state, write_state

FILE = "heads.safetensors"  # beside the adapter's own
LOOKED_AT = 256  # records, for one that an objective can learn from


def chosen_objectives(settings: Settings) -> dict[str, dict]:
    """Settings of each objective that is switched on, by its name."""
    every = {name: asdict(getattr(settings.objective, name)) for name in OBJECTIVES}
    return {name: own for name, own in every.items() if own["weight"] > 0}


def target_makers(settings: Settings) -> list[TargetMaker]:
    """What makes the targets of the chosen objectives."""
    return [OBJECTIVES.get(name).target_maker(own) for name, own in chosen_objectives(settings).items()]


def attach_heads(model: nn.Module, settings: Settings) -> None:
    """Gives the PEFT model the heads of the chosen objectives, fresh and the same for a seed; nothing where none is.

    What is drawn afterwards is what it would be without them.

    Raises:
        FamilyError: there is no telling where the text decoder is.
    """
    chosen = chosen_objectives(settings)
    if not chosen:
        return
    base = model.get_base_model()
    decoder_of(base)  # raises
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(settings.seed)  # `manual_seed` would seed every GPU too
        heads = nn.ModuleDict({name: OBJECTIVES.get(name)(width_of(base), **own) for name, own in chosen.items()})
    for name, own in chosen.items():
        heads[name].settings = own
    setattr(model.base_model, name_of_heads(model), heads.to(device=base.device, dtype=torch.float32))


def name_of_heads(model: nn.Module) -> str:
    return f"{model.base_model.prefix}heads"


def heads_of(model: nn.Module) -> dict[str, Objective]:
    """The objectives of a PEFT model, by name; none for most."""
    held = model.base_model._modules.get(name_of_heads(model))
    return dict(held.items()) if held is not None else {}


def is_head(name: str) -> bool:
    """Whether a tensor of a PEFT model, by its name, is a head's.

    >>> is_head("base_model.lynx_heads.regions.box.0.weight"), is_head("base_model.model.lm_head.weight")
    (True, False)
    """
    return any(part.endswith("_heads") for part in name.split(".")[1:2])


def head_state(model: nn.Module) -> dict[str, Tensor]:
    """The heads' weights, whole and on the CPU, by their names in `model`. By every process."""
    return whole_state(model, is_head) if heads_of(model) else {}


def save_heads(model: nn.Module, folder: Path, state: dict[str, Tensor]) -> None:
    """Writes what `head_state` gave into `folder`, with which objectives it is of and their settings.

    Nothing where there are no heads.
    """
    if state:
        write_state(folder / FILE, (state, {name: head.settings for name, head in heads_of(model).items()}))


def load_heads(model: nn.Module, folder: Path) -> None:
    """Puts the heads of a checkpoint into `model`, in place; nothing where it has none.

    Raises:
        CheckpointError: the checkpoint holds no such heads.
    """
    if not heads_of(model):
        return
    if not (folder / FILE).is_file():
        raise _refused(folder, f"it has no {FILE}")
    state, _ = read_state(folder / FILE)
    own = {name: p for name, p in model.state_dict(keep_vars=True).items() if is_head(name)}
    wrong = sorted(n for n in own.keys() | state.keys() if n not in own or n not in state)
    wrong += sorted(n for n in own.keys() & state.keys() if own[n].shape != state[n].shape)
    if wrong:
        raise _refused(folder, f"{len(wrong)} tensors of its heads are others, the first is {wrong[0]}")
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(state[name])


def _refused(folder: Path, why: str) -> CheckpointError:
    return CheckpointError(
        f"{folder} was saved with other objectives",
        why=f"{why}, and heads that start anew would undo what the experts learned with the old ones",
        fix="go on with the objectives that the run began with, or start again with overwrite=true "
        "trainer.resume=never",
    )


def refuse_nothing_to_learn(builder: SampleBuilder, records: RecordSet) -> None:
    """Nothing, when each objective finds something in the first records that are looked at, evenly spread.

    Raises:
        RecordError: one finds nothing. FamilyError: the base's picture tokens are not as it needs them.
    """
    for maker in builder.targets:
        positions = evenly(len(records), LOOKED_AT)
        if not any(_targets_of(maker, builder, records, position) for position in positions):
            raise RecordError(
                f"none of the {len(positions)} records looked at has anything for objective {maker.objective!r}",
                why=f"it looks for {maker.looks_for}",
                fix="train on tasks that have it (find_one, refer, find_region, name_region), or without the objective",
            )
        size = next((size for position in positions for size in records.sizes(position)), None)
        if size is not None:
            maker.of_picture(builder.processor, size)


def _targets_of(maker: TargetMaker, builder: SampleBuilder, records: RecordSet, position: int) -> bool:
    try:
        tokens = builder.tokens([records[position]])[0]
    except LynxError:
        return False  # left out and counted when it is met
    return any(maker.names.keys() >= target.values.keys() for target in tokens.targets)
