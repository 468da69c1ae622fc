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
    panels += [
        (f"records by {name}", lambda axes, counts=counts: _bars(axes, list(counts.items())[:_TOP]))
        for name, counts in content["said"].items()
    ]
    figure, spots = _panels(figure_class, len(panels), across=3, height=3.4)
    for axes, (title, draw) in zip(spots, panels, strict=True):
        axes.set_title(title, fontsize=10)
        draw(axes)
    return _png(figure)


def _panels(figure_class, number: int, *, across: int, height: float, labels: float = 2.1):
    """A figure and its axes, laid out by hand: matplotlib's own layouts take minutes for dozens of panels.

    ``height`` of a panel and ``labels``, the room left of it, are inches.
    """
    width, top, under = 13.0, 0.45, 0.35
    rows = math.ceil(number / across)
    figure = figure_class(figsize=(width, height * rows))
    spots = []
    for k in range(number):
        left, bottom = k % across * width / across + labels, (rows - 1 - k // across) * height + under
        size = (width / across - labels - 0.25) / width, (height - top - under) / (height * rows)
        spots.append(figure.add_axes((left / width, bottom / (height * rows), *size)))
    return figure, spots


def _grid(figure_class, bars_of: dict[str, list]) -> bytes:
    """One panel of bars per task."""
    figure, spots = _panels(figure_class, len(bars_of), across=3, height=2.6)
    for axes, (name, bars) in zip(spots, bars_of.items(), strict=True):
        axes.set_title(name, fontsize=10, parse_math=False)
        _bars(axes, bars)
    return _png(figure)


def _heats(figure_class, places: dict[str, dict]) -> bytes:
    figure, spots = _panels(figure_class, len(places), across=5, height=2.9, labels=0.2)
    for axes, (name, place) in zip(spots, places.items(), strict=True):
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
    axes.tick_params(axis="x", rotation=60)


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
    figure.savefig(buffer, format="png", dpi=90, pil_kwargs={"compress_level": 3}, metadata={"Software": None})
    return buffer.getvalue()
