"""The one table: grounding, masks and retention, before and after."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from lynx_moe.evaluation.retention import compare

# Row title -> path into a result of `evaluate`.
ROWS = {
    "grounding  Acc@0.5": ("grounding", "acc50"),
    "grounding  mean IoU": ("grounding", "mean_iou"),
    "find all  F1@0.5": ("grounding", "find_all", "f1"),
    "absent  says none": ("grounding", "absent", "says_none"),
    "steps  Acc@0.5": ("grounding", "steps", "acc50"),
    "answers in words": ("grounding", "in_words", "accuracy"),
    "masks  mean IoU": ("masks", "mean_iou"),
    "masks  IoU of at least 0.5": ("masks", "iou50"),
    "unreadable": ("grounding", "unreadable"),
    "retention  exact": ("retention", "accuracy"),
}


def report_table(before: dict | None, after: dict) -> Table:
    """Rows of numbers with how many records they rest on; rows that no record is for are left out.

    Args:
        before: result of `evaluate` on the base; None for one column only.
        after: of the trained model.
    """
    table = Table(title="evaluation", title_justify="left")
    table.add_column("measure")
    table.add_column("records", justify="right")
    if before is not None:
        table.add_column("before", justify="right")
    table.add_column("after" if before is not None else "value", justify="right")
    for title, path in ROWS.items():
        if reach(after, path) is not None:
            count = reach(after, (*path[:-1], "n")) if path[-1] != "unreadable" else ""
            numbers = [reach(result, path) for result in (before, after) if result is not None]
            table.add_row(title, str(count), *(_written(number) for number in numbers))
    for task, numbers in (reach(after, ("retention", "by_task")) or {}).items():
        old = [reach(before, ("retention", "by_task", task, "accuracy"))] if before is not None else []
        table.add_row(f"  {task}", str(numbers["n"]), *(_written(value) for value in [*old, numbers["accuracy"]]))
    return table


def print_report(before: dict | None, after: dict, console: Console | None = None) -> None:
    """Print the table and, when there are two results with understanding records, what flipped between them."""
    console = console or Console()
    console.print(report_table(before, after))
    errors = reach(after, ("grounding", "errors"))
    if errors:
        console.print("reading errors after: " + ", ".join(f"{kind} {count}" for kind, count in errors.items()))
    if before is None or not reach(after, ("retention", "n")):
        return
    change = compare(before, after)
    console.print(
        f"retention, pair by pair: {change['lost']} lost, {change['won']} won of {change['n']} "
        f"(McNemar p = {change['mcnemar_p']:.3g}); {change['same_text']:.1%} of answers equal to the letter"
    )


def reach(result: dict | None, path: tuple[str, ...]):
    """The value at `path`, or None as soon as something on the way is missing or None."""
    for name in path:
        result = result.get(name) if isinstance(result, dict) else None
    return result


def _written(number: float | None) -> str:
    return "-" if number is None else f"{number:.3f}"
