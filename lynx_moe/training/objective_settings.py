"""What counts in the loss: settings of the answer, and below them, by name, of each objective beside the answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from lynx_moe.errors import ConfigError
from lynx_moe.training.checked import Checked, setting
from lynx_moe.training.distil_settings import DistilSettings


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
        self.refuse_all_nought("all of its terms", "l1", "giou", "contrast", "matching")


@dataclass(kw_only=True, slots=True)
class MasksSettings(Checked):
    GROUP: ClassVar[str] = "objective.masks"
    weight: float = setting(
        0.0, "weight of learning masks beside the answer, as Pixel-SAIL does; times each term's. 0: off", low=0.0
    )
    bce: float = setting(2.0, "weight of the cross-entropy of a mask's cells; Sa2VA's", low=0.0)
    dice: float = setting(0.5, "weight of the Dice loss of a mask; Sa2VA's", low=0.0)
    channels: int = setting(64, "width of the upsampled map of a picture", low=1)
    blocks: int | None = setting(
        None, "how often the map's rows and columns are doubled; null: until a cell has 4 pixels of the input", low=0
    )
    tiles: bool = setting(
        False, "read the tokens of all tiles where a picture has such, finer and slower; else those of the overview"
    )
    word: str = setting("[SEG]", "what answers write for a mask; one word, spelled in the base's own tokens")

    def __post_init__(self) -> None:
        Checked.__post_init__(self)
        self.refuse_all_nought("both of its terms", "bce", "dice")


@dataclass(kw_only=True, slots=True)
class PromptsSettings(Checked):
    GROUP: ClassVar[str] = "objective.prompts"
    weight: float = setting(
        0.0,
        "show the places of questions by learned vectors on the picture, as Pixel-SAIL does; what is added is the "
        "vector times this. 0: off, places are numbers in text",
        low=0.0,
    )
    count: int = setting(8, "how many prompts one question may have: a vector for each", low=1, high=31)
    name: str = setting("region {n}", "what the text calls a prompt; {n} is its number, from 1")
    box: float = setting(1.0, "how often a region with a mask is shown by its box, against point and mask", low=0.0)
    point: float = setting(1.0, "how often it is shown by a point on it", low=0.0)
    mask: float = setting(1.0, "how often it is shown by its mask", low=0.0)
    std: float = setting(
        0.5, "size of the vectors at first, against that of the embeddings that they are added to", low=0.0
    )

    def __post_init__(self) -> None:
        Checked.__post_init__(self)
        if self.name.count("{n}") != 1 or set(self.name.replace("{n}", "")) & set("{}"):
            raise ConfigError(
                f"objective.prompts.name is {self.name!r}",
                why="prompts are told apart in the text by their number",
                fix="a name with {n} in it, once: 'region {n}'",
            )
        self.refuse_all_nought("box, point and mask all", "box", "point", "mask")


@dataclass(kw_only=True, slots=True)
class ReconstructionSettings(Checked):
    GROUP: ClassVar[str] = "objective.reconstruction"
    weight: float = setting(
        0.0, "weight of telling pictures again from their tokens' states, as ROSS does with 1. 0: off", low=0.0
    )
    predict: str = setting(
        "denoise",
        "denoise: noise in the tokens, as ROSS; regress: the tokens themselves",
        choices=("denoise", "regress"),
    )
    tokenizer: str = setting("pocket", "in what pictures are told: pocket, vae, pixels or features")
    path: str | None = setting(None, "vae, features: folder with config.json and safetensors")
    fold: int | None = setting(
        None,
        "places of the tokenizer per side of a token; empty: 2 for a VAE, 4 for pocket, 16 for pixels, 1 for features",
        low=1,
    )
    through_decoder: bool = setting(
        False, "regress: compare pixels behind the tokenizer's frozen decoder instead of its tokens"
    )
    width: int = setting(1024, "width of the denoiser; a multiple of heads and of 4", low=4)
    depth: int = setting(3, "blocks of the denoiser", low=1)
    heads: int = setting(16, "attention heads of the denoiser", low=1)
    draws: int = setting(4, "draws of time and noise for each picture and step", low=1)
    cache_dir: str | None = setting(
        None, "folder where latents are kept between epochs and runs; empty: made anew each time", free=True
    )

    def __post_init__(self) -> None:
        Checked.__post_init__(self)
        if self.width % self.heads or self.width % 4:
            raise ConfigError(
                f"objective.reconstruction.width is {self.width}, heads are {self.heads}",
                why="heads share the width evenly, and places are written in quarters of it",
                fix=f"objective.reconstruction.width={max(1, self.width // (4 * self.heads)) * 4 * self.heads}",
            )
        if self.through_decoder and self.predict != "regress":
            raise ConfigError(
                "objective.reconstruction.through_decoder goes with predict=regress",
                why="what is denoised is told as noise, which has no picture",
                fix="objective.reconstruction.predict=regress, or through_decoder=false",
            )


@dataclass(kw_only=True, slots=True)
class ContrastSettings(Checked):
    GROUP: ClassVar[str] = "objective.contrast"
    weight: float = setting(
        0.0,
        "weight of learning to embed: a picture with its question is told its answer among others'. 0: off",
        low=0.0,
    )
    temperature: float = setting(0.02, "temperature of the contrast; not learned", low=0.001)
    wording: str = setting(
        "Represent the given image with the following question: {question}",
        "what is asked to embed a picture; without {question} it is the picture alone",
    )

    def __post_init__(self) -> None:
        Checked.__post_init__(self)
        if not self.wording.strip():
            raise ConfigError(
                "objective.contrast.wording is empty",
                why="a picture is embedded by what is asked of it",
                fix="leave it out, or for pictures without a question: objective.contrast.wording='Represent the given "
                "image.'",
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
    masks: MasksSettings = field(default_factory=MasksSettings)
    prompts: PromptsSettings = field(default_factory=PromptsSettings)
    regions: RegionsSettings = field(default_factory=RegionsSettings)
    distil: DistilSettings = field(default_factory=DistilSettings)
    reconstruction: ReconstructionSettings = field(default_factory=ReconstructionSettings)
    contrast: ContrastSettings = field(default_factory=ContrastSettings)
