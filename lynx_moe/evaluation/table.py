"""The results of protocols in a terminal: every number with its interval, every change with its flips."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table


def print_results(content: dict, console: Console | None = None) -> None:
    """Prints what results.json holds: one row per protocol and condition, then what could not be used."""
    console = console or Console()
    console.print(results_table(content))
    for entry in content["changes"]:
        console.print(escape(change_line(entry)), highlight=False)
    for entry in content["results"]:
        where = escape(
            f"{entry['protocol']}{' (against)' if entry['side'] == 'before' else ''} {entry['variant']}".strip()
        )
        for title, counts in (
            ("left out", entry["faults"]),
            ("not readable in answers", entry["errors"]),
        ):
            if counts:
                console.print(f"{where}: {title}: " + escape(counted(counts)))
        if entry["calibration"]:
            console.print(f"{where}: {calibration_line(entry['calibration'])}", highlight=False)
    for curve in content.get("curves", []):
        for line in curve["said"]:
            console.print(escape(line))


def results_table(content: dict) -> Table:
    """A row per protocol, condition and model; columns that would say the same everywhere are left out."""
    rows = content["results"]
    columns = {
        "protocol": [entry["protocol"] for entry in rows],
        "pictures, or step": [entry["variant"] or "plain" for entry in rows],
        "model": [{"before": "against", "after": "model"}[entry["side"]] for entry in rows],
        "items": [str(entry["n"]) for entry in rows],
        "number": [f"{e['headline']}{'' if e['higher_is_better'] else ' (low is good)'}" for e in rows],
        "value": [plain(entry["value"]) for entry in rows],
        "95% interval": [ends(entry["interval"]) for entry in rows],
    }
    for name in ("pictures, or step", "model"):
        if len(set(columns[name])) == 1:
            del columns[name]
    table = Table(title="protocols", title_justify="left")
    for name in columns:
        table.add_column(name, justify="right" if name in ("items", "value", "95% interval") else "left")
    for cells in zip(*columns.values(), strict=True):
        table.add_row(*map(escape, cells))
    return table


def change_line(entry: dict) -> str:
    """What changed between the two models, in one sentence with its intervals."""
    where = " ".join(part for part in (entry["protocol"], entry["variant"]) if part)
    parts = [
        f"{entry['headline']} {plain(entry['before'])} to {plain(entry['after'])} on {entry['n']} pairs: change "
        f"{signed(entry['change'])} ({ends(entry['interval'], signed)})"
    ]
    if entry["judged"]:
        parts.append(
            f"{entry['lost']} lost, {entry['won']} won (McNemar p = {entry['mcnemar_p']:.3g}, by pictures "
            f"{entry['pictures_p']:.3g}), answers lost on at most {entry['lost_at_most']:.1%} of pictures"
        )
    if entry["same_text"] is not None:
        parts.append(f"{entry['same_text']:.1%} of answers equal to the letter")
    if entry["unpaired"]:
        parts.append(f"{entry['unpaired']} answered by one model only")
    return f"{where}: {'; '.join(parts)}"


def calibration_line(found: dict) -> str:
    """How far confidences are from how often boxes are right."""
    return (
        f"confidence {found['confidence']:.3f} where {found['accuracy']:.3f} of {found['n']} first boxes are right; "
        f"calibration error {found['ece']:.3f} ({found['ece_equal_mass']:.3f} by bins of equal mass), "
        f"Brier {found['brier']:.3f}"
    )


def plain(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.3f}"


def ends(interval, form=plain) -> str:
    return "-" if interval is None else f"{form(interval[0])} to {form(interval[1])}"


def counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{kind} {count}" for kind, count in counts.items())
