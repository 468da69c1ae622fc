"""The text of an exported modelling file, made from its template."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from importlib.resources import files
from string import Template

import transformers

import lynx_moe
from lynx_moe.export.code_layout import body_of, experts_child, frozen_child, head_of, is_plain, is_spread, poses
from lynx_moe.export.read import Adapted
from lynx_moe.ops.experts import FEW_ROWS

MODULE = "modelling_lynx"


@dataclass(frozen=True)
class MixCode:
    """What a mix is in the modelling file: weights from top-k scores, and new names of its gate's parameters.

    The gate's arithmetic stands in the template, in a section of the mix's name.
    """

    weights: str
    renamed: dict[str, str] = field(default_factory=dict)


# The arithmetic of lynx_moe.ops.mixes, term for term, so that the export rounds as the live model does.
MIX_CODE = {
    "additive": MixCode(weights="sigmoid()"),
    "convex": MixCode(weights="softmax(dim=-1)", renamed={"alpha_logit": "alpha_logit"}),
    "token": MixCode(weights="softmax(dim=-1)", renamed={"token_gate_D": "weight", "token_gate_bias": "bias"}),
}


def source(adapted: Adapted) -> str:
    """Text of the modelling file: the stock VLM class, subclassed, with our block in place of the wrapped FFNs.

    Only what this model needs is in it: no head without a fitted prompt gate, no deltas without `attention_rank`.
    """
    names, body = class_names(adapted), body_of(adapted)
    wanted = {
        adapted.config.mix: True,
        "gate": adapted.config.mix != "additive",
        "head": head_of(adapted) is not None,
        "attention": bool(adapted.projections),
        "spread": is_spread(adapted),
        "plain": is_plain(adapted),
        "posing": poses(adapted),
        "body": body is not None,
        "gated": adapted.config.expert_kind == "gated",
        "matrix": head_of(adapted) is not None or "masks" in adapted.heads,
        "heads": bool(adapted.heads),
        **dict.fromkeys(adapted.heads, True),
    }
    classes = [type(adapted.base.config), type(adapted.base), *([type(body)] if body is not None else [])]
    if adapted.heads:
        layout = adapted.pictures["layout"]
        wanted |= {
            "fixed": "rows" in layout,
            "merged": "merge" in layout,
            "lines": not layout,
            "padded": adapted.pictures["pad_square"],
            "cropped": adapted.pictures["crop"] is not None,
        }
    on = {name for name, is_on in wanted.items() if is_on}
    kept = ["lynx_router", "lynx_gate", "lynx_head", *(f"lynx_{name}" for name in adapted.heads)]
    text = Template(_sections(_template(MODULE), on)).substitute(
        asking=_sections(_template("asking"), on).strip("\n"),
        in_float32=", ".join(f'"{name}"' for name in kept),
        parents=f"LynxAsks, {classes[1].__name__}" if adapted.heads else classes[1].__name__,
        imports=_imports(classes),
        base_model=classes[1].__name__,
        base_config=classes[0].__name__,
        base_body=classes[-1].__name__,
        **{"body_class": "", **names},
        body_prefix=adapted.base.base_model_prefix,
        model_type=f"lynx_{adapted.base.config.model_type}",
        version=lynx_moe.__version__,
        transformers_version=transformers.__version__,
        weights=MIX_CODE[adapted.config.mix].weights,
        experts=experts_child(adapted),
        frozen=frozen_child(adapted),
        block="LynxPosingBlock" if wanted["posing"] else "LynxBlock",
        few_rows=FEW_ROWS,
        expert_kind=adapted.config.expert_kind.capitalize(),
        maps=2 if wanted["gated"] else 1,
        first_argument=", first" if wanted["spread"] else "",
        first_value=", first" if wanted["spread"] else "",
    )
    return re.sub(r"\n{4,}", "\n\n\n", text)


def class_names(adapted: Adapted) -> dict[str, str]:
    body = body_of(adapted)
    names = {
        "config_class": f"Lynx{type(adapted.base.config).__name__}",
        "model_class": f"Lynx{type(adapted.base).__name__}",
    }
    return names if body is None else {**names, "body_class": f"Lynx{type(body).__name__}"}


def _template(name: str) -> str:
    return (files("lynx_moe.export") / "templates" / f"{name}.py.tmpl").read_text(encoding="utf-8")


def _sections(text: str, wanted: set[str]) -> str:
    """`text` without the sections `#[name` .. `#]` that are not wanted, and without those marks; `#[no name` turns it
    round."""
    lines, keep = [], True
    for line in text.splitlines():
        if line.startswith("#["):
            name = line[2:].removeprefix("no ")
            keep = (name in wanted) != line.startswith("#[no ")
        elif line == "#]":
            keep = True
        elif keep:
            lines.append(line)
    return "\n".join(lines) + "\n"


def _imports(classes: list[type]) -> str:
    """Import lines: from transformers itself where it offers the class by name, else from where it is defined."""
    offered = [kind.__name__ for kind in classes if getattr(transformers, kind.__name__, None) is kind]
    lines = [f"from transformers import {', '.join(sorted(offered))}"] if offered else []
    lines += [f"from {kind.__module__} import {kind.__name__}" for kind in classes if kind.__name__ not in offered]
    return "\n".join(lines)
