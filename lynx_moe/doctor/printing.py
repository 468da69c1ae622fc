"""The diagnosis on a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

PARTS = {"prompt": "prompt", "picture": "picture", "answer": "answer", "all": "whole sample", "row": "packed row"}


def print_diagnosis(result: dict) -> None:
    """Sections in the order in which somebody would ask: pictures, tokens, template, cost, and what is wrong."""
    console = Console(soft_wrap=True)
    sheet = result["sheet"]
    console.rule("pictures as the model sees them", align="left")
    if sheet["pictures"]:
        console.print(f"{sheet['pictures']} targets drawn on {sheet['path']}", highlight=False)
        for how in sheet["seen_as"]:
            console.print(f"  {how}", highlight=False, markup=False)
    else:
        console.print("no picture to draw a target on")
    if result["tokens"]:
        console.rule("tokens", align="left")
        print_tokens(console, result["tokens"])
    if result["template"]:
        console.rule("what is learned, marked", align="left")
        for sample in result["template"]:
            print_sample(console, sample)
    if result["cost"]:
        console.rule("cost, from three real steps", align="left")
        print_cost(console, result["cost"])
    console.rule("findings", align="left")
    looked = result["records"]
    console.print(f"{looked['checked']} of {looked['of']} records looked at", highlight=False)
    for found in result["findings"]:
        console.print(f"[red]{found['count']}[/] {found['what']}", highlight=False)
        for example in found["examples"]:
            console.print(f"    {example}", highlight=False, markup=False)
    console.print("[green]nothing is wrong[/]" if result["ok"] else "[red]not ready to train[/]")


def print_tokens(console: Console, tokens: dict) -> None:
    table = Table(box=None)
    for column in ("", "min", "median", "95%", "max"):
        table.add_column(column, justify="right" if column else "left")
    for part, name in PARTS.items():
        if part in tokens:
            table.add_row(name, *(str(tokens[part][key]) for key in ("min", "median", "p95", "max")))
    console.print(table)
    limit = tokens["positions"]
    console.print(f"the model has {'positions without a limit' if limit is None else f'{limit} positions'}")
    first = tokens["longest"][0]
    console.print(f"longest: {first['id']}, {first['tokens']} tokens", highlight=False, markup=False)


def print_sample(console: Console, sample: dict) -> None:
    text = Text(f"{sample['kind']}, {sample['id']}\n", style="bold")
    # Brackets as well as colour: a terminal without colours, or a file, shows it too.
    text.append(sample["before"], style="not bold dim").append("[[", style="not bold")
    text.append(sample["learned"], style="not bold green").append("]]", style="not bold")
    text.append(sample["after"], style="not bold red")
    console.print(text)


def print_cost(console: Console, cost: dict) -> None:
    memory = cost["memory"]
    parts = ", ".join(f"{name} {size(memory[name])}" for name in ("base", "adapter", "gradients", "optimiser", "rest"))
    console.print(f"memory: peak {size(memory['peak'])} of the {memory['peak_of']} ({parts})", highlight=False)
    console.print(
        f"time: {cost['seconds_per_step']:.3g} s a step, {cost['steps']} steps, {duration(cost['seconds'])} with one "
        "process",
        highlight=False,
    )
    if cost["dead_parameters"]:
        console.print(f"[yellow]no gradient in these steps: {', '.join(cost['dead_parameters'])}[/]", highlight=False)


def size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def duration(seconds: float) -> str:
    """Hours from an hour and a half on, minutes from a minute and a half."""
    for least, unit, name in ((5400, 3600, "h"), (90, 60, "min")):
        if seconds >= least:
            return f"{seconds / unit:.1f} {name}"
    return f"{seconds:.0f} s"
