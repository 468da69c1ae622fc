"""Objectives beside the answer in a training: which are switched on, what they learn from, how they are saved."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lynx_moe.data import RecordSet, SampleBuilder
from lynx_moe.data.beside import rows_beside
from lynx_moe.data.screening import evenly
from lynx_moe.data.targets import TargetMaker
from lynx_moe.errors import CheckpointError, LynxError, RecordError
from lynx_moe.objectives import OBJECTIVES
from lynx_moe.objectives.attached import (
    FILE,
    attach_objectives,
    heads_of,
    is_head,
    put_heads,
    read_heads,
    saved_settings,
)
from lynx_moe.training.settings import Settings
from lynx_moe.training.sharding import whole_state
from lynx_moe.training.state import write_state

LOOKED_AT = 256  # records, for one that an objective can learn from


def chosen_objectives(settings: Settings, processor: Any = None) -> dict[str, dict]:
    """Settings of each objective that is switched on, by its name.

    Args:
        processor: the base's, for settings that are left to the base; None leaves them open.

    Raises:
        FamilyError: such a setting cannot be taken from this base.
    """
    every = {name: asdict(getattr(settings.objective, name)) for name in OBJECTIVES}
    chosen = {name: own for name, own in every.items() if own["weight"] > 0}
    if processor is None:
        return chosen
    return {name: OBJECTIVES.get(name).settled(own, processor) for name, own in chosen.items()}


def set_but_off(settings: Settings) -> list[str]:
    """Objectives of weight 0 that settings were given for all the same."""
    every = {name: getattr(settings.objective, name) for name in OBJECTIVES}
    return [name for name, own in every.items() if own.weight == 0 and own != type(own)()]


def target_makers(settings: Settings, processor: Any) -> list[TargetMaker]:
    """What makes the targets of the chosen objectives; raises FamilyError as `chosen_objectives`."""
    return [OBJECTIVES.get(name).target_maker(own) for name, own in chosen_objectives(settings, processor).items()]


def attach_heads(model: nn.Module, settings: Settings, processor: Any = None) -> None:
    """Gives the PEFT model the heads of the chosen objectives, fresh; nothing where none is.

    Raises:
        FamilyError: there is no telling where the text decoder is; or as `chosen_objectives`.
    """
    attach_objectives(model, chosen_objectives(settings, processor), settings.seed)


def head_state(model: nn.Module) -> dict[str, Tensor]:
    """The heads' weights, whole and on the CPU, by their names in `model`. By every process."""
    return whole_state(model, is_head) if heads_of(model) else {}


def save_heads(model: nn.Module, folder: Path, state: dict[str, Tensor]) -> None:
    """Writes what `head_state` gave into `folder`, with which objectives it is of and their settings.

    Nothing where there are no heads.
    """
    if heads_of(model):  # also where none has weights: what it was trained with is to be known
        write_state(folder / FILE, (state, saved_settings(model)))


def load_heads(model: nn.Module, folder: Path) -> None:
    """Puts the heads of a checkpoint into `model`, in place; nothing where it has none.

    Raises:
        CheckpointError: the checkpoint holds no such heads, or they go with another tokenizer or teacher.
    """
    if not heads_of(model):
        return
    if not (folder / FILE).is_file():
        raise _refused(folder, f"it has no {FILE}")
    state, settings = read_heads(folder)
    for name, head in heads_of(model).items():
        head.goes_on_from(settings.get(name, {}))
    if wrong := put_heads(model, state):
        raise _refused(folder, f"{len(wrong)} tensors of its heads are others, the first is {wrong[0]}")


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
                fix="train on tasks that have it (find_one, refer, find_region, name_region; for masks segment_one), "
                "or without the objective",
            )
        size = next((size for position in positions for size in records.sizes(position)), None)
        if size is not None:
            maker.of_picture(builder.processor, size)


def _targets_of(maker: TargetMaker, builder: SampleBuilder, records: RecordSet, position: int) -> bool:
    try:
        record = records[position]
        rows = [*builder.tokens([record]), *rows_beside(builder, record)]
    except LynxError:
        return False  # left out and counted when it is met
    return any(maker.finds(tokens.targets, len(tokens.pictures_at)) for tokens in rows)
