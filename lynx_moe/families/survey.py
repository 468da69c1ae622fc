"""Where the blocks would go in a model, told from its config alone: no weights are read, however large it is."""

from __future__ import annotations

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText

from lynx_moe.errors import FamilyError
from lynx_moe.families.ffn import describe_ffn, is_ffn
from lynx_moe.families.find import FfnBlock, find_decoder_layers, select_layers


def survey(path: str, layers: str | list[int] = "every_other") -> dict:
    """The feed-forward positions found in the model at `path`, and which of them `layers` means.

    Args:
        path: a folder or a Hub name.
        layers: as in `LynxConfig`.

    Returns:
        dict: path, model_class, model_type, text_model_type, and `blocks`, each with layer, name, width, ffn_width,
        kind and chosen.

    Raises:
        FamilyError: there is no config of a vision-language model, or no feed-forward block in it.
        ConfigError: `layers` means nothing here.
    """
    try:
        config = AutoConfig.from_pretrained(path)
        with torch.device("meta"):
            model = AutoModelForImageTextToText.from_config(config)
    except (OSError, ValueError) as problem:
        raise FamilyError(
            f"{path} is no vision-language model that transformers knows: {str(problem).splitlines()[0]}",
            why="AutoModelForImageTextToText must accept its config.json",
            fix="check the path; without a network it must be a folder",
        ) from problem
    num_layers, found = find_decoder_layers(model)
    chosen = select_layers([block.layer for block in found], num_layers, layers)
    blocks = []
    for block in found:
        shape = describe_ffn(block.frozen(model))
        blocks.append(
            {
                "layer": block.layer,
                "name": block.name,
                "width": shape.width,
                "ffn_width": shape.ffn_width,
                "kind": kind_of(block, model),
                "chosen": block.layer in chosen,
            }
        )
    return {
        "path": path,
        "model_class": type(model).__name__,
        "model_type": config.model_type,
        "text_model_type": config.get_text_config().model_type,
        "blocks": blocks,
    }


def kind_of(block: FfnBlock, model: nn.Module) -> str:
    """What a feed-forward position is: "dense", "gated", "MoE" or "MoE + shared", and whether its layer spreads it."""
    frozen = block.frozen(model)
    shape = describe_ffn(frozen)
    if not shape.is_moe:
        # Two maps, or three; gate and up may be one that is twice as wide as down reads.
        linears = [m for m in frozen.modules() if hasattr(m, "in_features")]
        gated = len(linears) > 2 or linears[0].out_features == 2 * shape.ffn_width
        return ("gated" if gated else "dense") + (", spread" if block.reads else "")
    shared = [child for child in frozen.children() if is_ffn(child, shape.width) and not describe_ffn(child).is_moe]
    return "MoE + shared" if shared else "MoE"


def print_survey(found: dict, console: Console | None = None) -> None:
    """Prints a survey as a table, one row per decoder layer."""
    console = console or Console()
    table = Table(title=f"{found['model_class']}, text decoder {found['text_model_type']}", title_justify="left")
    for title in ("layer", "frozen experts", "width", "FFN width", "kind", "gets a block"):
        number = title in ("layer", "width", "FFN width")
        table.add_column(title, justify="right" if number else "left", overflow="fold")
    for block in found["blocks"]:
        marks = (str(block["width"]), str(block["ffn_width"]), block["kind"], "yes" if block["chosen"] else "")
        table.add_row(str(block["layer"]), block["name"], *marks)
    console.print(table)
