"""One self-contained HTML page over many runs, the pictures in it also as PNG files beside it."""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from lynx_moe.errors import ConfigError
from lynx_moe.report.cards import Run, find_runs, number
from lynx_moe.report.picking import RULE, Pick, pick
from lynx_moe.report.points import Point, front, learned_from, points, shown, swept
from lynx_moe.whole import write_bytes, write_json

PAGE = "report.html"
TRADE_OFF, GATES = "trade-off.png", "gates.png"


def report(folders: Sequence[str | Path], out: str | Path | None = None, *, tolerance: float = 1.0) -> dict:
    """Writes report.html, report.json, trade-off.png and gates.png about every run in and under `folders`.

    Args:
        folders: output folders of sweeps and of single runs.
        out: where to write; `report` in the first of `folders` when None. Files of an earlier report are replaced.
        tolerance: percentage points of retention that may be lost.

    Returns:
        What report.json holds: "runs" (one row each), "points" (runs of equal settings together), "pick", "swept",
        "tolerance"; and "page", where the page is.

    Raises:
        RecordError: no run is there. ConfigError: what draws or fills the page is not installed, or a tolerance
            below 0. CheckpointError: writing failed.
    """
    if not tolerance >= 0:
        raise ConfigError(f"tolerance {tolerance:g} is below 0", why="it is a loss", fix="give points, e.g. 1")
    figures, template = drawing()
    runs = find_runs(folders)
    out = Path(folders[0], "report") if out is None else Path(out)
    all_points = points(runs)
    best, chosen = front(all_points), pick(all_points, tolerance=tolerance)
    pictures: dict[str, bytes] = {}
    if all_points:
        pictures[TRADE_OFF] = figures.trade_off(all_points, best, chosen, tolerance=tolerance)
    gates = figures.gate_use(all_points)
    if gates is not None:
        pictures[GATES] = gates
    names = swept(runs)
    content = {
        "tolerance": tolerance,
        "swept": names,
        "pick": {
            "run": None if chosen.run is None else str(chosen.run.folder),
            "label": None if chosen.point is None else chosen.point.label,
            "headline": chosen.headline,
            "why": chosen.why,
            "rule": RULE,
        },
        "points": [point_row(p, best, chosen) for p in all_points],
        "runs": [run_row(run, names, out) for run in in_order(runs)],
    }
    text = template.render(
        report=content,
        trade_off=uri(pictures.get(TRADE_OFF)),
        gates=uri(pictures.get(GATES)),
        picked=None if chosen.run is None else link(chosen.run.folder, out),
        common=common_settings(runs, names),
        shown=shown,
    )
    out.mkdir(parents=True, exist_ok=True)
    for name in (TRADE_OFF, GATES):
        if name in pictures:
            write_bytes(out / name, pictures[name])
        else:
            (out / name).unlink(missing_ok=True)
    write_json(out / "report.json", content)
    write_bytes(out / PAGE, text.encode())
    return {**content, "page": str(out / PAGE)}


def drawing():
    """What draws the pictures, and the page's template."""
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined

        from lynx_moe.report import figures
    except ImportError as problem:
        raise ConfigError(
            f"{problem.name} is not installed", why="the report is drawn with it", fix="pip install 'lynx-moe[report]'"
        ) from problem
    made = Environment(
        loader=PackageLoader("lynx_moe.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"percent": percent, "signed": signed, "plain": plain}
    return figures, made.get_template("report.html.j2")


def percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}%"


def signed(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:+.1f}"


def plain(value: float | None, form: str = ".3g") -> str:
    return "–" if value is None else format(value, form)


def uri(data: bytes | None) -> str | None:
    return None if data is None else f"data:image/png;base64,{base64.b64encode(data).decode()}"


def link(folder: Path, out: Path) -> str:
    """A run's folder as seen from the page, so that both can be moved together."""
    return quote(Path(os.path.relpath(folder, out.resolve())).as_posix()) + "/"


def in_order(runs: Sequence[Run]) -> list[Run]:
    """Finished and measured runs first, those that point best before the others; then the rest by name."""
    return sorted(runs, key=lambda r: (r.state != "done", r.acc50 is None, -(r.acc50 or 0.0), r.name))


def point_row(p: Point, best: Sequence[Point], chosen: Pick) -> dict:
    return {
        "label": p.label,
        "method": p.method,
        "runs": [run.name for run in p.runs],
        "acc50": p.acc50,
        "acc50_spread": p.spread("acc50"),
        "change": p.change,
        "change_spread": p.spread("change"),
        "interval": p.interval,
        "gate_use": p.gate_use,
        "front": p in best,
        "picked": p is chosen.point,
    }


def run_row(run: Run, names: Sequence[str], out: Path) -> dict:
    return {
        "name": run.name,
        "link": link(run.folder, out),
        "state": run.state,
        "settings": {name: learned_from(run).get(name, "–") for name in names} if run.state == "done" else {},
        "acc50": run.acc50,
        "mean_iou": number(run.after, "grounding", "mean_iou"),
        "before": number(run.before, "retention", "accuracy"),
        "after": number(run.after, "retention", "accuracy"),
        "change": run.change,
        "interval": run.interval,
        "lost": run.lost,
        "won": run.won,
        "asked": run.asked,
        "mcnemar_p": run.mcnemar_p,
        "gate_use": run.gate_use,
        "steps": run.steps,
        "seconds": run.seconds,
        "failure": run.failure,
    }


def common_settings(runs: Sequence[Run], names: Sequence[str]) -> dict[str, object]:
    """What all finished runs have in common."""
    done = [run for run in runs if run.state == "done"]
    return {name: value for name, value in done[0].settings.items() if name not in names} if done else {}
