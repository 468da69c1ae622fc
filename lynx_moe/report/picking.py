"""Which run to take, and why, by a rule that can be said in one sentence.

The rule is ours: among the settings that point better than the base and whose loss of retention stays within the
tolerance, the one that points best; of equals, the one that opens its gates least. Within means that the lower end of
the 95% interval is, so that a lucky draw of few questions does not pass. Of several seeds the best-pointing run of the
chosen settings is named.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lynx_moe.report.cards import Run, number
from lynx_moe.report.points import Point

RULE = (
    "Among the settings that point better than the base and whose loss of retention stays within the tolerance, the "
    "one with the best grounding; of equals, the one whose gates are open least. Within the tolerance is a loss whose "
    "whole 95% interval is: the bar in the picture must not reach into the grey. Of several seeds the whole range of "
    "their intervals counts."
)
FEW = 100  # questions; below, an interval says little, and none at all when no answer flipped


@dataclass(frozen=True, kw_only=True)
class Pick:
    """What is recommended: a headline, and a sentence that gives the reason. `point` and `run` are None for nothing."""

    point: Point | None
    run: Run | None
    headline: str
    why: str


def worst(point: Point) -> float:
    """The loss that has to be reckoned with: lower end of the interval, the change itself where there is none."""
    return point.change if point.interval is None else point.interval[0]


def before(point: Point) -> float:
    """The base's own Acc@0.5; 0 where it is not known."""
    return number(point.runs[0].before, "grounding", "acc50") or 0.0


def pick(points: Sequence[Point], *, tolerance: float = 1.0) -> Pick:
    """The settings to take, by the rule of this module.

    Args:
        tolerance: percentage points of retention that may be lost.
    """
    if not points:
        why = "No finished run measured both grounding and retention. Train with evaluation.split=validation."
        return Pick(point=None, run=None, headline="Nothing to choose from", why=why)
    learned = [point for point in points if point.acc50 > before(point)]
    if not learned:
        most, base = max(points, key=lambda p: p.acc50), max(map(before, points))
        return Pick(
            point=None,
            run=None,
            headline="No setting points better than the base",
            why=f"Acc@0.5 is {100 * most.acc50:.1f}% at best ({most.label}), {100 * base:.1f}% before: train longer.",
        )
    # Rounding of shares must not decide.
    fit = [point for point in learned if 100 * worst(point) >= -tolerance - 1e-9]
    if not fit:
        return nothing(learned, tolerance)
    best = max(fit, key=lambda p: (round(p.acc50, 9), -(p.gate_use if p.gate_use is not None else 1.0), p.change))
    run = max(best.runs, key=lambda r: (r.acc50, r.change))
    headline = f"Take {best.label}: it points right in {100 * best.acc50:.1f}% and {kept(best.change)}"
    if len(points) == 1:
        why = "Nothing else was measured; it surely keeps"
    elif len(fit) == 1:
        why = f"Of {len(points)} settings it is the only one that surely keeps"
    else:
        why = f"It is one of {len(fit)} of {len(points)} settings that surely keep"
    why += f" the loss of retention within {counted(tolerance)} ({sure(best)})"
    same = [p for p in fit if round(p.acc50, 9) == round(best.acc50, 9)]
    if len(same) > 1:
        why += f", and of {len(same)} that point equally well it opens its gates least"
    elif len(fit) > 1:
        second = max((p for p in fit if p is not best), key=lambda p: p.acc50)
        why += f", and the one that points best: {100 * (best.acc50 - second.acc50):.1f} points before {second.label}"
    better = [p for p in points if p not in fit and p.acc50 > best.acc50]
    if better:
        top = max(better, key=lambda p: p.acc50)
        why += f". {top.label} points better ({100 * top.acc50:.1f}%), but {sure(top)}"
    return Pick(point=best, run=run, headline=headline, why=f"{why}.{caution(best)}")


def nothing(points: Sequence[Point], tolerance: float) -> Pick:
    nearest = max(points, key=lambda p: (p.change, worst(p)))
    which = (
        f"None of {len(points)} settings surely keeps" if len(points) > 1 else f"{nearest.label} does not surely keep"
    )
    headline = f"{which} the loss of retention within {counted(tolerance)}"
    why = f"The nearest is {nearest.label}: {sure(nearest)}. "
    if 100 * nearest.change >= -tolerance:
        why += "Its loss alone would pass, but with so few questions it is not sure: ask more (evaluation.limit)."
    else:
        why += "Strengthen what holds the base (objective.retention_kl, adapter.gate_sparsity), or allow more."
    return Pick(point=None, run=None, headline=headline, why=why + caution(nearest))


def counted(points: float) -> str:
    return f"{points:g} point" if points == 1 else f"{points:g} points"


def kept(change: float) -> str:
    points = round(100 * change, 1)
    if points == 0:
        return "loses nothing on other questions"
    return f"{'loses' if points < 0 else 'gains'} {abs(points):.1f} points on other questions"


def sure(point: Point) -> str:
    """The change and how sure it is, in words."""
    said = f"retention {100 * point.change:+.1f}"
    if point.interval is None:
        return f"{said} points, without an interval"
    low, high = point.interval
    p = point.runs[0].mcnemar_p
    test = "" if p is None or len(point.runs) > 1 else f", McNemar p = {p:.2g}"
    return f"{said} points, 95% interval {100 * low:+.1f} to {100 * high:+.1f}{test}"


def caution(point: Point) -> str:
    asked = point.runs[0].asked
    few = asked is not None and asked < FEW
    return f" Mind that only {asked} understanding questions were asked." if few else ""
