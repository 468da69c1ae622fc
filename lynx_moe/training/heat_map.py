"""One picture of a whole training: what every block did at every step."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

COLUMNS = 600  # more steps than the picture has room for are averaged in groups
LABELS = 24  # blocks that get a name beside their row


def draw_heat_map(rows: list[dict], path: Path) -> str:
    """Writes a PNG of two heat maps, block by step: the mean gate, and the entropy of expert use.

    Args:
        rows: of `blocks.jsonl`.

    Returns:
        Why it could not be drawn; empty when it was, or when there are no two logs of blocks.
    """
    rows = [row for row in rows if row["blocks"]]
    if len(rows) < 2:
        return ""  # one column is no picture, and baselines have no blocks
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return "matplotlib is not installed: pip install 'lynx-moe[report]'"
    names = list(rows[0]["blocks"])
    steps = np.array([row["step"] for row in rows], dtype=float)
    experts = len(rows[0]["blocks"][names[0]]["experts"])
    figure = Figure(figsize=(10, 1.6 + 2 * min(5.0, max(1.2, 0.16 * len(names)))), layout="constrained", dpi=110)
    panels = figure.subplots(2, 1, sharex=True)
    told = (("gate", "mean gate", None), ("entropy", "entropy of expert use (nats)", float(np.log(max(experts, 2)))))
    for panel, (key, title, most) in zip(panels, told, strict=True):
        values = np.array([[row["blocks"].get(name, {}).get(key, np.nan) for row in rows] for name in names])
        ends, shown = grouped(steps, values)
        starts_at_0 = np.concatenate([[min(0.0, ends[0] - 1)], ends])
        # From 0, so that the same colour means the same in every run; a flat map is one colour, not noise.
        top = most if most is not None else max(float(np.nanmax(shown, initial=0.0)), 1e-3)
        mesh = panel.pcolormesh(
            starts_at_0, np.arange(len(names) + 1), shown, vmin=0.0, vmax=top, cmap="viridis", rasterized=True
        )
        figure.colorbar(mesh, ax=panel, pad=0.01)
        panel.set_title(title, loc="left", fontsize=10)
        every = -(-len(names) // LABELS)
        panel.set_yticks(np.arange(0, len(names), every) + 0.5, short(names)[::every], fontsize=7)
        panel.set_ylabel("block")
    panels[-1].set_xlabel("optimiser step")
    panels[-1].xaxis.get_major_locator().set_params(integer=True)
    aside = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        figure.savefig(aside)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    return ""


def grouped(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(C,) last steps and (blocks, C) means of at most `COLUMNS` groups of neighbouring (N,) steps."""
    size = -(-len(steps) // COLUMNS)
    starts = np.arange(0, len(steps), size)
    lengths = np.diff(np.append(starts, len(steps)))
    return steps[starts + lengths - 1], np.add.reduceat(values, starts, axis=1) / lengths


def short(names: list[str]) -> list[str]:
    """Names without the parts that all of them share.

    >>> short(["model.layers.0.mlp", "model.layers.12.mlp"])
    ['0', '12']
    """
    if len(names) < 2:
        return names
    parts = [name.split(".") for name in names]
    longest = min(map(len, parts)) - 1
    head = next((k for k in range(longest) if len({p[k] for p in parts}) > 1), longest)
    most = longest - head
    tail = next((k for k in range(most) if len({p[-1 - k] for p in parts}) > 1), most)
    return [".".join(p[head : len(p) - tail]) for p in parts]
