"""Several ways of doing one thing, timed in turn in one process, so that a busy machine slows all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from lynx_moe.training.memory import keep_freed_memory


def in_turn(
    ways: Mapping[str, Callable],
    prepare: Callable[[], Any],
    *,
    repeats: int,
    seconds: float,
    warm_up: int = 1,
    most: int = 100,
) -> dict[str, list[float]]:
    """Seconds of each way in each round; every round runs all ways once, beginning with another one each time.

    Args:
        ways: each is called with what `prepare` gave.
        prepare: called before each round, outside the time; what it gives should differ from round
            to round as in training, or a kernel compiled for one shape looks faster than it is.
        repeats: rounds at least.
        seconds: go on for about so long, and for `most` rounds at most.
        warm_up: rounds before the first that counts.
    """
    names, taken, until = list(ways), {name: [] for name in ways}, 0.0
    number = 0
    while number < warm_up + repeats or (number < warm_up + most and time.perf_counter() < until):
        if number == warm_up:
            until = time.perf_counter() + seconds
        first, given = number % len(names), prepare()
        for name in names[first:] + names[:first]:
            began = time.perf_counter()
            ways[name](given)
            wait_for_device()
            if number >= warm_up:
                taken[name].append(time.perf_counter() - began)
        number += 1
    return taken


@contextmanager
def prepared(threads: int | None) -> Iterator[None]:
    """Inside, torch computes on so many CPU threads, and memory is kept as a training keeps it."""
    keep_freed_memory()
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def wait_for_device() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def compare(taken: Mapping[str, list[float]], to: str) -> dict[str, dict[str, float]]:
    """Per way: `seconds` (median), `ratio` to the way `to` (median of each round's own) and the ratio's quartiles.

    >>> compare({"a": [1.0, 2.0, 4.0], "b": [3.0, 4.0, 8.0]}, to="a")["b"]
    {'seconds': 4.0, 'ratio': 2.0, 'ratio_low': 2.0, 'ratio_high': 2.5, 'rounds': 3}
    """
    found = {}
    for name, own in taken.items():
        ratios = [a / b for a, b in zip(own, taken[to], strict=True)]
        low, _, high = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
        found[name] = {
            "seconds": statistics.median(own),
            "ratio": statistics.median(ratios),
            "ratio_low": low,
            "ratio_high": high,
            "rounds": len(ratios),
        }
    return found
