"""The page of all protocols, made from the classes: `python -m lynx_moe.evaluation.protocols > docs/protocols.md`."""

from __future__ import annotations

import inspect
from dataclasses import MISSING, Field, fields

from lynx_moe.evaluation.protocols.base import PROTOCOLS, Protocol

HEAD = """# Protocols

Benchmarks in their authors' own file formats, scored as their authors score them. This page is made from the classes
in `lynx_moe/evaluation/protocols/`; make it again with `python -m lynx_moe.evaluation.protocols > docs/protocols.md`.

The settings of each are in its table below: `lynx-moe evaluate MODEL --protocols refcoco=FOLDER,split=testA`. What
cannot be used (a missing or broken picture, one outside the folder, a repeated id) is left out and counted in `faults`.
A split without items is refused. Protocols about places give a 95 % interval, by drawing pictures with replacement.
Pictures are turned as their EXIF tag says and laid on white where they are transparent, where most published code does
neither.

"Number" is the headline; "held against" is the published code, or the library, that the tests compute the number with.
"""


def page() -> str:
    """The whole page, in Markdown."""
    classes = [PROTOCOLS.get(name) for name in PROTOCOLS.names()]
    rows = ["| protocol | what is measured | number | held against | citation |", f"|{' --- |' * 5}"]
    for kind in classes:
        cells = (f"`{kind.name}`", _promise(kind), f"`{kind.headline}`", getattr(kind, "oracle", ""), kind.citation)
        rows.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join([HEAD, *rows, "", *map(_section, classes)])


def _section(kind: type[Protocol]) -> str:
    lines = [f"## {kind.name}", ""]
    lines += [f"Files: {kind.files}.", ""] if getattr(kind, "files", "") else []
    lines += ["| setting | default | meaning |", "| --- | --- | --- |"]
    for one in fields(kind):
        if one.init:
            lines.append(f"| `{one.name}` | {_default(one)} | {one.metadata.get('help', '')} |")
    return "\n".join([*lines, ""])


def _promise(kind: type[Protocol]) -> str:
    return " ".join((inspect.getdoc(kind) or "").split("\n\n")[0].split())


def _default(one: Field) -> str:
    value = one.default_factory() if one.default_factory is not MISSING else one.default
    return "needed" if value is MISSING else f"`{value!r}`"
