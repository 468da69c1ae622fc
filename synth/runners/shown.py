"""What a run shows while it works: pictures done, records per second, and what was left out by reason."""

from __future__ import annotations

import time
from collections import Counter

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_REASONS = 3  # the commonest are shown; the manifest counts all


class Shown:
    """A progress bar; use it as a context manager.

    Args:
        label: what is being made. size: pictures in all. before: pictures that an earlier run has finished.
    """

    def __init__(self, console: Console, label: str, size: int, before: int) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, TimeRemainingColumn(), TextColumn("{task.fields[news]}"), console=console)
        self._bar = self._progress.add_task(label, total=size, completed=before, news="")
        self._before, self._pictures, self._records = before, 0, 0
        self._left_out: Counter = Counter()
        self._start = time.monotonic()

    def __enter__(self) -> Shown:
        self._progress.start()
        return self

    def __exit__(self, *_) -> None:
        self._progress.stop()

    def pictures(self, done: int) -> None:
        """Show that so many pictures of this run are done."""
        self._pictures = done
        self._progress.update(self._bar, completed=self._before + done)

    def advance(self, number: int) -> None:
        """Show that so many more pictures are done."""
        self.pictures(self._pictures + number)

    def shard(self, report: dict) -> None:
        """Take in the report of a finished shard: records per second since the start, and reasons."""
        self._records += sum(report["counts"].values())
        for part in ("quarantined", "rejected"):
            self._left_out.update(report[part])
        self._progress.update(self._bar, news=self.news())

    def news(self) -> str:
        """Return the line that stands behind the bar."""
        speed = self._records / max(1e-9, time.monotonic() - self._start)
        lost = ", ".join(f"{number} x {reason}" for reason, number in self._left_out.most_common(_REASONS))
        return f"{self._records:,} records, {speed:,.0f}/s" + (f"; left out: {lost}" if lost else "")
