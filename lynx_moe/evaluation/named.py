"""Protocols and options as they are named on a command line: NAME=FOLDER[,key=value...]."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lynx_moe.errors import ConfigError, nearest
from lynx_moe.evaluation.protocols import PROTOCOLS, Protocol


def parsed_protocols(texts: list[str]) -> Iterator[tuple[str, Protocol]]:
    """Label and protocol of each NAME=FOLDER[,key=value...].

    The label is the name; where names repeat, with its settings; where these repeat too, the whole text.

    Raises:
        ConfigError: no such protocol or setting, a value of another type, or the same text twice.
    """
    names = [text.partition("=")[0] for text in texts]
    longer = [",".join([name, *text.split(",")[1:]]) for text, name in zip(texts, names, strict=True)]
    for number, (text, name) in enumerate(zip(texts, names, strict=True)):
        first, *rest = text.split(",")
        kind, (_, folder) = PROTOCOLS.get(name), pair(first, text)
        if text in texts[:number]:
            raise ConfigError(f"{text} is asked twice", why="it would be the same numbers", fix="name it once")
        settings = dict(converted(kind, *pair(part, text)) for part in rest)
        label = (
            name if names.count(name) == 1 else longer[number] if rest and longer.count(longer[number]) == 1 else text
        )
        yield label, kind(folder=Path(folder), **settings)


def pair(text: str, whole: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not (name and sign and value):
        raise ConfigError(f"{text!r} in {whole!r} is no name=value", why="there is no =", fix="NAME=FOLDER,key=value")
    return name, value


def converted(kind: type[Protocol], name: str, value: str) -> tuple[str, Any]:
    """A setting's value as the type that the protocol declares for it."""
    declared = {f.name: str(f.type) for f in dataclasses.fields(kind) if f.init and f.name not in ("folder", "faults")}
    if name not in declared:
        raise ConfigError(
            f"{kind.name} has no setting {name!r}",
            why=f"it has {', '.join(declared) or 'none'}",
            fix=f"did you mean {' or '.join(nearest(name, declared))}?" if declared else "leave it out",
        )
    return name, typed(declared[name], value, f"{name} of {kind.name}")


def typed(annotation: str, value: str, what: str) -> Any:
    """`value` as the first type of `annotation` ("int", "float | str") that it can be."""
    made = {"int": int, "float": float, "Path": Path, "str": str, "bool": lambda v: {"true": True, "false": False}[v]}
    kinds = [kind.strip() for kind in annotation.split("|") if kind.strip() != "None"]
    for kind in kinds:
        try:
            return made.get(kind, str)(value)
        except (KeyError, ValueError):
            continue
    raise ConfigError(f"{value!r} is no {what}", why=f"it is {' or '.join(kinds)}", fix="true or false, or a number")
