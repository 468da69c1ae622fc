"""Every image-text family that transformers knows, and what this library does with it: the generator of
`docs/families.md`.

Each family is built from its default config on the meta device, so that size costs nothing, gets an adapter, and is
asked for its export routes. Nothing here is written by hand but the reasons of refusal, which are the errors' own.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
import textwrap
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForImageTextToText
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from lynx_moe.adapter import LynxConfig
from lynx_moe.adapter.attaching import attach_adapter
from lynx_moe.errors import LynxError
from lynx_moe.export import native
from lynx_moe.export.plan import choose
from lynx_moe.export.read import read
from lynx_moe.families.attention import attention_projections
from lynx_moe.families.dialects import dialect_of
from lynx_moe.families.find import find_ffn_blocks
from lynx_moe.families.survey import kind_of
from lynx_moe.whole import write_bytes

_MADE = """
Made by `lynx-moe families --markdown docs/families.md`; not written by hand. Each model type that
`AutoModelForImageTextToText` of transformers {version} knows was built from its default config without weights,
searched, and given an adapter by `get_peft_model(model, LynxConfig())` with no target named.
"""
_LEGEND = """
*Blocks* are all feed-forward positions of the text decoder (the default wraps every other one; *spread* ones lie in
the layer itself, wrapped at their last linear map), *attention* the linear maps that `attention_rank` can reach.
*Dialect*: the one that the family was pretrained with, where this library speaks it, else the library's own. *Export*
is for an adapter whose gate is always on: *native* is an architecture of transformers (its name in brackets), *code*
one modelling file beside the weights, because the class accepts no other text architecture than its own unless another
reason stands there. A per-prompt gate always goes by code. Forward and gradients run in the tests for the tiny models
of `tests/zoo.py`, which differ in structure; nothing was run at full size.
"""


@dataclass(frozen=True, kw_only=True)
class FamilyRow:
    """One family. `refused` is why there is no row otherwise: transformers' own error, or ours; None when it works.

    Attributes:
        blocks: feed-forward positions of the text decoder, all of them.
        where: their common name, with `*` for the layer.
        kinds: what they are, with their number when there are several kinds.
        projections: linear maps of attention that `attention_rank` would reach with `layers="all"`.
        dialect: how this family was taught to write boxes, as far as this library speaks it; else the library's own.
        route: how an adapter whose gate is always on is exported.
    """

    family: str
    model_class: str = ""
    blocks: int = 0
    where: str = ""
    kinds: str = ""
    projections: int = 0
    dialect: str = ""
    route: str = ""
    refused: str | None = None
    ours: bool = False


def families() -> list[str]:
    """The model types that `AutoModelForImageTextToText` knows, in the installed transformers."""
    return sorted(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)


def family_rows(names: Iterable[str] | None = None) -> Iterator[FamilyRow]:
    """A row for each family of `names`, or for all; seconds per family, none of it for weights."""
    for name in names or families():
        yield _row(name)


def _row(family: str) -> FamilyRow:
    with _silence():
        try:
            config = CONFIG_MAPPING[family]()
            with torch.device("meta"):
                model = AutoModelForImageTextToText.from_config(config)
        except Exception as problem:  # a library's default config may fail in any way, and the reason is the row
            reason = str(problem).strip().splitlines() or [""]
            return FamilyRow(family=family, refused=f"{type(problem).__name__}: {reason[0]}".rstrip(": "))
        try:
            blocks = find_ffn_blocks(model)
            kinds = Counter(kind_of(block, model) for block in blocks)
            projections = attention_projections(model, blocks)
            adapted = attach_adapter(model, LynxConfig(prompt_gate="on"))
            route, promise, _ = choose(read(adapted), "auto")
        except LynxError as problem:
            return FamilyRow(family=family, model_class=type(model).__name__, refused=problem.message, ours=True)
    several = len(kinds) > 1
    return FamilyRow(
        family=family,
        model_class=type(model).__name__,
        blocks=len(blocks),
        where=" or ".join(sorted({re.sub(r"\.\d+\.", ".*.", block.name, count=1) for block in blocks})),
        kinds=", ".join(f"{number} {kind}" if several else kind for kind, number in kinds.items()),
        projections=len(projections),
        dialect=dialect_of(family),
        route=f"native ({promise.host})" if route == "native" else _why_code(family, adapted),
    )


def _why_code(family: str, adapted) -> str:
    reason = native.refusal(read(adapted))
    # True of most, so the page says it once.
    return "code" if reason == native.closed_slot(family) else f"code: {reason}"


def markdown(rows: Iterable[FamilyRow]) -> str:
    """The page: what works, then what does not and why."""
    rows = list(rows)
    works = [row for row in rows if row.refused is None]
    ours = [row for row in rows if row.refused and row.ours]
    theirs = [row for row in rows if row.refused and not row.ours]
    numbers = f"{len(rows)} types, {len(rows) - len(theirs)} can be built so, {len(works)} of those get an adapter."
    lines = ["# Families", ""]
    for paragraph in (_MADE.format(version=transformers.__version__), numbers, _LEGEND):
        lines += [*textwrap.wrap(paragraph.strip(), 130, break_on_hyphens=False), ""]
    lines += [
        "| family | class | blocks | kind | where | attention | dialect | export |",
        "| --- | --- | ---: | --- | --- | ---: | --- | --- |",
    ]
    for row in works:
        cells = (f"`{row.family}`", row.model_class, str(row.blocks), row.kinds, f"`{row.where}`", str(row.projections))
        lines.append("| " + " | ".join((*cells, row.dialect, row.route.replace("|", "/"))) + " |")
    lines += ["", "## Refused here", ""]
    lines += [f"- `{row.family}`: {row.refused}" for row in ours] or ["None."]
    lines += ["", "## Not built by transformers from its default config", ""]
    lines += [f"- `{row.family}`: {row.refused}" for row in theirs] or ["None."]
    return "\n".join(lines) + "\n"


def write_markdown(path: str | Path, rows: Iterable[FamilyRow]) -> None:
    """`markdown(rows)` in `path`, whole or not at all."""
    write_bytes(Path(path), markdown(rows).encode())


def as_json(rows: Iterable[FamilyRow]) -> list[dict]:
    return [asdict(row) for row in rows]


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """A hundred models built one after another have a lot to say, none of it about us."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
