"""Numbers along something: under stronger changes of the pictures, and over a run's checkpoints."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import groupby

import numpy as np

from lynx_moe.errors import ConfigError

STEP = "step"  # "step 400" is the variant of a checkpoint, "blur 3" that of a changed picture
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#666666")  # Okabe and Ito 2008
MARKERS = "os^Dv<>"


def variant_of(kind: str, number: int) -> str:
    return f"{kind} {number}"


def curves_of(results: Sequence[dict], under_change: Sequence[dict] = ()) -> list[dict]:
    """Curves of the headlines in `results`, one per side, protocol and kind of variant.

    Args:
        under_change: what each change costs, on the items that could still be asked (see `results_of`).

    Returns:
        Per curve `protocol`, `side`, `headline`, `along` ("step", or a change's name) and `points` (`at`, `value`,
        `interval`, `n`), for changes with the plain pictures at 0, and with the `change` to them and its
        `change_interval` on the same items; over checkpoints `best` (with its step), `last` and
        `mean`, since one checkpoint of many is luck (arXiv 2305.07558 watches scores swing); and `said`, in words.
    """
    keyed = [(r["side"], r["protocol"], *split(r["variant"]), r) for r in results]
    plain = {(side, protocol): r for side, protocol, kind, _, r in keyed if not kind}
    costs = {(c["side"], c["protocol"], c["variant"]): c for c in under_change}
    along = sorted((entry for entry in keyed if entry[2]), key=lambda entry: entry[:4])
    curves = []
    for (side, protocol, kind), entries in groupby(along, key=lambda entry: entry[:3]):
        points = [(at, r) for *_, at, r in entries]
        start = plain.get((side, protocol))
        if kind != STEP and start:
            points.insert(0, (0, start))
        curves.append(curve(side, protocol, kind, points, costs))
    return curves


def curve(side: str, protocol: str, kind: str, points: list[tuple[int, dict]], costs: dict) -> dict:
    first = points[0][1]
    made = {
        "side": side,
        "protocol": protocol,
        "along": kind,
        "headline": first["headline"],
        "points": [{"at": at, **{name: r[name] for name in ("value", "interval", "n")}} for at, r in points],
    }
    known = [(r["value"], at) for at, r in points if r["value"] is not None]
    if not known:
        return made | {"said": [f"{protocol}, {kind}: no value anywhere"]}
    if kind == STEP:
        best, at = max(known, key=lambda v: v if first["higher_is_better"] else (-v[0], v[1]))
        mean = sum(value for value, _ in known) / len(known)
        last = known[-1][0]
        said = (
            f"{protocol} over {len(known)} checkpoints: best {best:.3f} (step {at}), last {last:.3f}, mean {mean:.3f}"
        )
        return made | {"best": {"value": best, "step": at}, "last": last, "mean": mean, "said": [said]}
    said = []
    for point in made["points"]:
        if point["at"] == 0:
            point |= {"change": 0.0, "change_interval": (0.0, 0.0)}
        cost = costs.get((side, protocol, variant_of(kind, point["at"])))
        if cost is not None and cost["change"] is not None:
            point |= {"change": cost["change"], "change_interval": cost["interval"]}
            low, high = cost["interval"] or (cost["change"],) * 2
            said.append(f"level {point['at']}: {cost['change']:+.3f} ({low:+.3f} to {high:+.3f}, {cost['n']} items)")
    return made | {
        "said": [f"{protocol}{beside(side)} under {kind}, against the same items on plain pictures: {', '.join(said)}"]
    }


def split(variant: str) -> tuple[str, int]:
    kind, _, number = variant.rpartition(" ")
    return (kind, int(number)) if kind else ("", 0)


def heights(curve: dict, point: dict) -> tuple[float, float, float] | None:
    """What is drawn of a point: its height and the ends of its interval."""
    name, ends = ("value", "interval") if curve["along"] == STEP else ("change", "change_interval")
    if point.get(name) is None:
        return None
    return (point[name], *(point[ends] or (point[name],) * 2))


def beside(side: str) -> str:
    return " (against)" if side == "before" else ""


def require_drawing() -> None:
    """Raises ConfigError when what draws curves is not installed: before hours of asking, not after."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as problem:
        raise ConfigError(
            "matplotlib is not installed", why="curves are drawn with it", fix="pip install 'lynx-moe[report]'"
        ) from problem


def draw(curves: Sequence[dict], title: str, along: str) -> bytes:
    """PNG: one panel per protocol, one line per kind and side, bars for the 95% intervals; dashed for the other model.

    Of changes what is drawn is what they cost, item by item: a crop loses items, and those that stay may be harder.

    Args:
        along: what the horizontal axis is.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = list(dict.fromkeys(c["protocol"] for c in curves))
    kinds = list(dict.fromkeys(c["along"] for c in curves))
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(6 * columns, 4 * rows + 0.8), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, protocol in zip(grid, panels, strict=False):
        for c in (c for c in curves if c["protocol"] == protocol):
            number = kinds.index(c["along"])
            points = [(p["at"], *heights(c, p)) for p in c["points"] if heights(c, p)]
            x, y, low, high = zip(*points, strict=True) if points else ((), (), (), ())
            bars = [
                [at - end for at, end in zip(y, low, strict=True)],
                [end - at for at, end in zip(y, high, strict=True)],
            ]
            axes.errorbar(
                x, y, yerr=np.abs(bars), label=c["along"] + beside(c["side"]), color=COLOURS[number % len(COLOURS)],
                marker=MARKERS[number % len(MARKERS)], linestyle="--" if c["side"] == "before" else "-", capsize=3,
            )  # fmt: skip
        axes.set_title(protocol, parse_math=False, fontsize=11)
        axes.set_xlabel(along)
        first = next(c for c in curves if c["protocol"] == protocol)
        words = "" if first["along"] == STEP else ",\nchange to the same items on plain pictures"
        axes.set_ylabel(first["headline"] + words, parse_math=False)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.25)
        axes.legend(fontsize=8)
    for axes in grid[len(panels) :]:
        axes.remove()
    figure.suptitle(f"{title} (bars: 95% intervals)", fontsize=12)
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=110, metadata={"Software": None})
    return out.getvalue()
