"""Heads that answers need, in a modelling file: what each is called there, what it must know, and what is lost without.

Their arithmetic stands in `templates/asking.py.tmpl`, in a section of the objective's name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lynx_moe.data.collate import pad_id
from lynx_moe.evaluation import answer_ends
from lynx_moe.evaluation.token_text import unspoken
from lynx_moe.export.read import Adapted
from lynx_moe.families.dialects import Dialect, get_dialect
from lynx_moe.families.last_states import decoder_of
from lynx_moe.objectives import Objective


@dataclass(frozen=True)
class HeadCode:
    """One objective's head.

    Attributes:
        lost: what an export without it gives up.
        settings: what its module in the file is made with.
        renamed: its tensors' names in the file, behind "lynx_" and the objective's name.
    """

    lost: str
    settings: Callable[[Objective], dict[str, Any]]
    renamed: Callable[[str], str] = str


HEADS: dict[str, HeadCode] = {
    "masks": HeadCode(
        lost="masks are lost: the answer's {word} words remain words",
        settings=lambda head: {
            "word": head.settings["word"],
            "width": head.upsampling.project.in_channels,
            "channels": head.upsampling.project.out_channels,
            "blocks": len(head.upsampling.blocks),
        },
        renamed=lambda name: name.removeprefix("upsampling."),
    ),
    "prompts": HeadCode(
        lost="regions are lost: questions can show them by numbers in text alone, which is not what was learned",
        settings=lambda head: {
            "name": head.settings["name"],
            "count": head.vectors.num_embeddings,
            "width": head.vectors.embedding_dim,
            "weight": head.weight,
        },
        renamed=lambda name: name.removesuffix(".weight"),
    ),
}


def lost(heads: Mapping[str, Objective]) -> list[str]:
    """What an export without these heads gives up, in words."""
    known = {name: HEADS[name].lost.format(**head.settings) for name, head in heads.items() if name in HEADS}
    return [known.get(name, f"the head {name!r} is lost, and with it what answers need it for") for name in heads]


def refusal(adapted: Adapted) -> str | None:
    """Why no modelling file can hold this model's heads, in words that follow "because"; None when one can."""
    if not adapted.heads:
        return None
    unknown = sorted(adapted.heads.keys() - HEADS.keys())
    if unknown:
        return f"answers need the head {unknown[0]!r}, whose arithmetic the file has no words for"
    if "masks" in adapted.heads and adapted.heads["masks"].tiles:
        return "its masks are read at the tokens of all tiles, and the file tells the overview's alone"
    if adapted.base.config.is_encoder_decoder:
        return "its heads read picture and answer in one sequence, and an encoder-decoder has two"
    return adapted.pictures if isinstance(adapted.pictures, str) else None


def settings(adapted: Adapted) -> dict[str, Any]:
    """For `config.lynx`: each head's settings, and what `ask` needs to know of pictures and words; {} without heads."""
    if not adapted.heads:
        return {}
    processor, decoder = adapted.processor, decoder_of(adapted.base)
    return {
        "heads": {name: HEADS[name].settings(head) for name, head in adapted.heads.items()},
        "asking": {
            "decoder": next(name for name, module in adapted.base.named_modules() if module is decoder),
            "picture": adapted.pictures,
            "not_spoken_ids": sorted(unspoken(processor.tokenizer, tuple(dialect_of(adapted).marks))),
            "end_ids": answer_ends(adapted.base, processor.tokenizer),
            "pad_id": pad_id(processor),
        },
    }


def tensors(adapted: Adapted) -> dict[str, Tensor]:
    """The heads' weights by the names of the modelling file, in float32 as they are trained."""
    return {
        f"lynx_{objective}.{HEADS[objective].renamed(name)}": parameter.detach().float()
        for objective, head in adapted.heads.items()
        for name, parameter in head.state_dict(keep_vars=True).items()
    }


def mask_word_of(adapted: Adapted) -> str | None:
    """What the live model writes for a mask, whether or not its head comes along; None where it has none."""
    masks = (adapted.heads | adapted.left).get("masks")
    return None if masks is None else masks.settings["word"]


def dialect_of(adapted: Adapted) -> Dialect:
    """How the live model writes boxes, and masks where it has a head for them."""
    return get_dialect(adapted.config.dialect or "percent", adapted.processor, mask_word_of(adapted))
