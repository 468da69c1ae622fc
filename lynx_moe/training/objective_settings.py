"""What counts in the loss: settings of the answer, and below them, by name, of each objective beside the answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from lynx_moe.errors import ConfigError
from lynx_moe.training.checked import Checked, setting


@dataclass(kw_only=True, slots=True)
class RegionsSettings(Checked):
    GROUP: ClassVar[str] = "objective.regions"
    weight: float = setting(
        0.0, "weight of learning regions beside the answer, as X-VLM does; times each term's. 0: off", low=0.0
    )
    l1: float = setting(1.0, "weight of the L1 distance of the box told from a phrase's state, in 0-1", low=0.0)
    giou: float = setting(1.0, "weight of 1 - GIoU of that box", low=0.0)
    contrast: float = setting(1.0, "weight of telling a phrase's region from other pairs', and the reverse", low=0.0)
    matching: float = setting(1.0, "weight of telling right pairs from hard wrong ones", low=0.0)
    projection: int = setting(256, "width in which phrases and regions are compared", low=1)
    temperature: float = setting(
        0.07, "temperature of the contrast at first; learned between 0.001 and 0.5", low=0.001, high=0.5
    )

    def __post_init__(self) -> None:
        Checked.__post_init__(self)
        if self.weight and not (self.l1 or self.giou or self.contrast or self.matching):
            raise ConfigError(
                "objective.regions is on and all of its terms weigh 0",
                why="nothing would be learned by it",
                fix="objective.regions.weight=0, or give l1, giou, contrast or matching a weight",
            )


@dataclass(kw_only=True, slots=True)
class ObjectiveSettings(Checked):
    retention_kl: float = setting(
        0.0, "weight of KL(base || adapted) on understanding answers; above 0 it costs one more forward", low=0.0
    )
    box_weight: float = setting(
        1.0, "weight of a token that spells a box, where the other tokens of a grounding answer weigh 1", low=0.0
    )
    stepwise: str = setting(
        "whole",
        "how stepwise answers are learned: whole, as at inference; faithful, as in the paper: a forward per step; "
        "packed: faithful's supervision in one forward",
        choices=("whole", "faithful", "packed"),
    )
    step_suffixes: list[str] = setting(
        ["Let's think of the next step."],
        "faithful and packed: what ends the question while step 1, 2, .. is learned; the last goes on for later steps",
    )
    step_weights: list[float] = setting(
        [], "weight of a token of step 1, 2, ..; the last goes on for later steps; empty: 1. box_weight multiplies it"
    )
    answer_weight: float = setting(
        1.0, "weight of a token of the last step of a stepwise answer, whatever its number", low=0.0
    )
    regions: RegionsSettings = field(default_factory=RegionsSettings)
