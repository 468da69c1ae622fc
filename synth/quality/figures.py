"""Distributions as pictures, drawn by matplotlib (the extra ``report``); the numbers are those of ``report.json``."""

from __future__ import annotations

import io
import math
import textwrap

import numpy as np

_BAR, _TOP = "#3b6ea5", 10


def figures(content: dict) -> dict[str, bytes]:
    """Return PNG files by name, or nothing where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return {}
    drawn = {"overview": _overview(Figure, content)}
    tasks = content["tasks"]
    if tasks:
        drawn["answers"] = _grid(Figure, {name: t["answers"]["top"][:_TOP] for name, t in tasks.items()})
        drawn["wordings"] = _grid(Figure, {name: t["wordings"]["top"][:_TOP] for name, t in tasks.items()})
        drawn["question_types"] = _grid(Figure, {name: t["question_types"]["top"][:_TOP] for name, t in tasks.items()})
    boxed = {name: t["places"] for name, t in tasks.items() if t["places"]["total"]}
    if boxed:
        drawn["box_centres"] = _heats(Figure, boxed)
    return drawn


def _overview(figure_class, content: dict) -> bytes:
    panels = [
        (f"middles of {content['objects']['total']} objects", lambda axes: _heat(axes, content["objects"]["heat"])),
        ("share of the picture an object covers", lambda axes: _areas(axes, content["objects"])),
        ("objects per picture", lambda axes: _columns(axes, content["objects_per_picture"])),
        ("kinds of records", lambda axes: _bars(axes, list(content["kinds"].items()))),
        (
            "records by licence",
            lambda axes: _bars(axes, [(k, v["records"]) for k, v in content["licences"].items()][:8]),
        ),
        ("commonest objects", lambda axes: _bars(axes, content["names"]["top"][:_TOP])),
    ]
    if content["languages"]:
        panels.append(("languages", lambda axes: _bars(axes, list(content["languages"].items())[:_TOP])))
    figure = figure_class(figsize=(13, 3.6 * math.ceil(len(panels) / 3)), layout="constrained")
    for k, (title, draw) in enumerate(panels):
        axes = figure.add_subplot(math.ceil(len(panels) / 3), 3, k + 1)
        axes.set_title(title, fontsize=10)
        draw(axes)
    return _png(figure)


def _grid(figure_class, bars_of: dict[str, list]) -> bytes:
    """One panel of bars per task."""
    rows = math.ceil(len(bars_of) / 3)
    figure = figure_class(figsize=(13, 2.6 * rows), layout="constrained")
    for k, (name, bars) in enumerate(bars_of.items()):
        axes = figure.add_subplot(rows, 3, k + 1)
        axes.set_title(name, fontsize=10, parse_math=False)
        _bars(axes, bars)
    return _png(figure)


def _heats(figure_class, places: dict[str, dict]) -> bytes:
    rows = math.ceil(len(places) / 5)
    figure = figure_class(figsize=(13, 2.7 * rows), layout="constrained")
    for k, (name, place) in enumerate(places.items()):
        axes = figure.add_subplot(rows, 5, k + 1)
        axes.set_title(f"{name} ({place['total']})", fontsize=9, parse_math=False)
        _heat(axes, place["heat"])
    return _png(figure)


def _heat(axes, heat: list[list[int]]) -> None:
    axes.imshow(np.array(heat), cmap="viridis", vmin=0)
    axes.set_xticks([])
    axes.set_yticks([])


def _areas(axes, places: dict) -> None:
    names = [f"≤{100 * edge:g}%" for edge in places["area_edges"]]
    axes.bar(names, places["areas"], color=_BAR)
    axes.tick_params(labelsize=8)


def _columns(axes, counts: dict[str, int]) -> None:
    axes.bar([int(k) for k in counts], list(counts.values()), color=_BAR)
    axes.locator_params(axis="x", integer=True)
    axes.tick_params(labelsize=8)


def _bars(axes, bars: list) -> None:
    names = [textwrap.shorten(_shown(name), 34, placeholder="…") or "…" for name, _ in bars]
    axes.barh(range(len(bars)), [n for _, n in bars], color=_BAR)
    axes.set_yticks(range(len(bars)), names, fontsize=8, parse_math=False)
    axes.invert_yaxis()
    axes.tick_params(axis="x", labelsize=8)


def _shown(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in str(text))


def _png(figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90, metadata={"Software": None})
    return buffer.getvalue()
