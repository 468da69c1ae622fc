"""The report's pictures, drawn by matplotlib, in colours that also the colour-blind tell apart (Okabe and Ito 2008)."""

from __future__ import annotations

import io
import math
import re
import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lynx_moe.report.picking import Pick, counted
from lynx_moe.report.placing import Mark, place_labels
from lynx_moe.report.points import Point, cut

BLUE, ORANGE, GREEN, VERMILLION, PURPLE, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#666666"
# method -> (marker, colour, name in the legend)
MARKS = {
    "lynx": ("o", BLUE, "new experts"),
    "lora": ("s", VERMILLION, "LoRA (baseline)"),
    "full": ("^", PURPLE, "full fine-tuning (baseline)"),
}
OTHER = ("D", GREEN, "another method")
MOST_LABELS = 12  # points that are all labelled; of more only the front, the baselines and the choice are
LONGEST = 38  # characters of a label
MOST_VALUES = 150  # cells that have their number written into them


def trade_off(points: Sequence[Point], front: Sequence[Point], chosen: Pick, *, tolerance: float) -> bytes:
    """PNG: grounding against the change of retention, one mark per settings; needs at least one point."""
    figure = Figure(figsize=(10, 6.6), layout="constrained")
    FigureCanvasAgg(figure)  # can tell how large a label will be
    axes = figure.add_subplot()
    for method in dict.fromkeys(p.method for p in points):
        marker, colour, name = MARKS.get(method, OTHER)
        ours = [p for p in points if p.method == method]
        for p in ours:
            errors(axes, p, colour)
        face = [colour if p in front else "white" for p in ours]
        x, y = [100 * p.change for p in ours], [100 * p.acc50 for p in ours]
        axes.scatter(x, y, s=64, marker=marker, facecolors=face, edgecolors=colour, linewidths=1.6, zorder=3)
        axes.scatter([], [], s=64, marker=marker, color=colour, label=name)
    draw_front(axes, front)
    before = base_acc50(points)
    if before is not None:
        axes.scatter([0], [100 * before], marker="X", s=80, color="black", zorder=3, label="the base, before")
    if chosen.point is not None:
        at = (100 * chosen.point.change, 100 * chosen.point.acc50)
        axes.scatter(*at, s=340, facecolors="none", edgecolors=ORANGE, linewidths=3, zorder=4)
        axes.scatter([], [], s=110, facecolors="none", edgecolors=ORANGE, linewidths=3, label="the one to take")
    limits(axes, points, tolerance, before)
    axes.axvspan(
        axes.get_xlim()[0], -tolerance, color="#dddddd", zorder=0, label=f"loses more than {counted(tolerance)}"
    )
    axes.axvline(0, color=GREY, linewidth=0.8, zorder=1)
    axes.set_xlabel("retention: accuracy on other questions, after minus before (points; line: 95% interval)")
    axes.set_ylabel("grounding: Acc@0.5 (%)")
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
    title(axes, chosen.headline)
    labels, name = short_labels(points, LONGEST)
    if name:
        axes.plot([], [], linestyle="none", label=f"numbers: {short(name, LONGEST)}")
    figure.legend(*axes.get_legend_handles_labels(), fontsize=9, ncols=4, loc="outside lower center", frameon=False)
    named = [p for p in points if len(points) <= MOST_LABELS or p in front or p.method != "lynx" or p is chosen.point]
    figure.draw_without_rendering()
    marks = [
        Mark(100 * p.change, 100 * p.acc50, *(100 * end for end in p.interval or (p.change,) * 2),
             half=13 if p is chosen.point else 7)
        for p in points
    ]  # fmt: skip
    place_labels(axes, [(100 * p.change, 100 * p.acc50, labels[p.label]) for p in named], marks)
    return png(figure)


def errors(axes, p: Point, colour: str) -> None:
    x, y = 100 * p.change, 100 * p.acc50
    if p.interval is not None:
        low, high = (100 * end for end in p.interval)
        axes.plot([low, high], [y, y], color=colour, alpha=0.45, linewidth=1.5, zorder=2)
    if len(p.runs) > 1:
        low, high = (100 * end for end in p.spread("acc50"))
        axes.plot([x, x], [low, high], color=colour, alpha=0.45, linewidth=1.5, zorder=2)


def draw_front(axes, front: Sequence[Point]) -> None:
    """Steps, because nothing is promised between two points of the front."""
    ordered = sorted({(100 * p.change, 100 * p.acc50) for p in front})
    if len(ordered) > 1:
        x, y = zip(*ordered, strict=True)
        axes.step(x, y, where="pre", color=GREY, linestyle="--", linewidth=1.2, zorder=1, label="Pareto front (filled)")


def limits(axes, points: Sequence[Point], tolerance: float, before: float | None) -> None:
    """Room for all marks, the base and the tolerance, also where everything is equal."""
    ends = [100 * end for p in points for end in (p.interval or (p.change,))] + [0.0, -1.5 * tolerance]
    x_low, x_high = min(ends), max(ends)
    room = 0.12 * max(x_high - x_low, 1.0)
    axes.set_xlim(x_low - room, x_high + 2 * room)
    heights = [100 * value for p in points for value in p.spread("acc50")]
    heights += [] if before is None else [100 * before]
    room = 0.1 * max(max(heights) - min(heights), 5.0)
    axes.set_ylim(min(heights) - room, max(heights) + 1.4 * room)


def base_acc50(points: Sequence[Point]) -> float | None:
    """The base's own Acc@0.5; None when the runs do not agree on it."""
    found = {(run.before.get("grounding") or {}).get("acc50") for p in points for run in p.runs}
    return found.pop() if len(found) == 1 else None


def gate_use(points: Sequence[Point]) -> bytes | None:
    """PNG: mean gate per block and settings, on grounding and on other rows; None when no run has gates."""
    gated = [p for p in points if any(run.gates for run in p.runs)]
    if not gated:
        return None
    blocks = sorted({name for p in gated for run in p.runs for name in run.gates}, key=layer_of)
    kinds = ("grounding", "understanding")
    tables = {kind: np.array([[mean_gate(p, name, kind) for p in gated] for name in blocks]) for kind in kinds}
    wide = min(18.0, 4.5 + 2 * 0.42 * len(gated))
    figure = Figure(figsize=(max(9.0, wide), max(3.2, 2.4 + 0.3 * len(blocks))), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    top = max((float(np.nanmax(t)) for t in tables.values() if not np.isnan(t).all()), default=1.0)
    labels, name = short_labels(gated, 26)
    for axes, kind in zip(panels, kinds, strict=True):
        axes.set_xlabel(short(name, LONGEST))
        table_LP = tables[kind]
        image = axes.imshow(table_LP, cmap="cividis", vmin=0, vmax=top or 1.0, aspect="auto", origin="lower")
        names = [labels[p.label] for p in gated]
        axes.set_xticks(range(len(gated)), names, rotation=60, ha="right", rotation_mode="anchor", fontsize=8,
                        parse_math=False)  # fmt: skip
        axes.set_yticks(range(len(blocks)), [block_name(name) for name in blocks], fontsize=8, parse_math=False)
        axes.set_title("rows that ask for boxes" if kind == "grounding" else "all other rows", fontsize=10)
        if table_LP.size <= MOST_VALUES:
            write_values(axes, table_LP, top)
    panels[0].set_ylabel("decoder layer")
    figure.colorbar(image, ax=panels, label="mean gate (0: shut)")
    title(figure, "How far the gates open, by layer and gating strength")
    return png(figure)


def write_values(axes, table_LP: np.ndarray, top: float) -> None:
    for row, column in np.ndindex(table_LP.shape):
        value = table_LP[row, column]
        if not np.isnan(value):
            dark = value < 0.6 * top
            axes.text(column, row, f"{value:.2g}", ha="center", va="center", fontsize=7,
                      color="white" if dark else "black")  # fmt: skip


def mean_gate(p: Point, block: str, kind: str) -> float:
    values = [run.gates.get(block, {}).get(kind) for run in p.runs]
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else math.nan


def layer_of(block: str) -> tuple[int, str]:
    numbers = re.findall(r"\d+", block)
    return (int(numbers[0]) if numbers else -1, block)


def block_name(block: str) -> str:
    number = layer_of(block)[0]
    return short(block, 20) if number < 0 else str(number)


def short_labels(points: Sequence[Point], longest: int) -> tuple[dict[str, str], str]:
    """Each point's label for a picture; and, where they all begin with the same "name=", that name, to be said once."""
    ours = [p.label for p in points if p.method == "lynx"]
    name = ours[0].partition("=")[0] if ours else ""
    once = len(ours) > 1 and all(label.startswith(f"{name}=") and ", " not in label for label in ours)
    begin = f"{name}=" if once else ""
    return {p.label: short(p.label.removeprefix(begin), longest) for p in points}, name if once else ""


def short(text: str, longest: int) -> str:
    return cut("".join(c if c.isprintable() else " " for c in text), longest)


def title(where, text: str) -> None:
    clean = short(text, 200)
    say = where.suptitle if isinstance(where, Figure) else where.set_title
    say("\n".join(textwrap.wrap(clean, 88)), fontsize=12, fontweight="bold", parse_math=False)


def png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()
