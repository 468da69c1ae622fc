"""Points of a trade-off: runs that differ in nothing but the seed are one point, with a mean and a spread."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from lynx_moe.report.cards import Run

STRENGTH = "adapter.gate_sparsity"
LONGEST = 40  # characters of a value in a label
MOST_PARTS = 4  # of a label; runs that differ in more, as those of two sweeps do, go by their folders


@dataclass(frozen=True, kw_only=True)
class Point:
    """Runs of equal settings, all of them measured.

    Attributes:
        label: what was swept, and the values here; a baseline's method where that is it.
        runs: one per seed.
        acc50: mean grounding Acc@0.5, a share. change: mean retention after minus before, a share.
        interval: of `change`; over several seeds from the lowest lower to the highest upper end, which claims less
            than pooling would: all seeds were asked the same questions. None where a run has none.
    """

    label: str
    runs: tuple[Run, ...]
    acc50: float
    change: float
    interval: tuple[float, float] | None
    gate_use: float | None

    @property
    def method(self) -> str:
        return self.runs[0].method

    @property
    def strength(self) -> float:
        value = self.runs[0].settings.get(STRENGTH)
        return float(value) if isinstance(value, int | float) else float("inf")

    def spread(self, name: str) -> tuple[float, float]:
        """Least and most of `acc50` or `change` over the seeds."""
        values = [getattr(run, name) for run in self.runs]
        return min(values), max(values)


def learned_from(run: Run) -> dict[str, object]:
    """The settings that had a say in what a run learned: a baseline has no use for those of the new experts."""
    ours = run.method == "lynx"
    return {
        name: value
        for name, value in run.settings.items()
        if not name.startswith("adapter.") or name == "adapter.method" or ours != (name == "adapter.lora_rank")
    }


def swept(runs: Sequence[Run]) -> list[str]:
    """Dotted names of the settings that are not the same in all finished runs; the gating strength first."""
    done = [learned_from(run) for run in runs if run.state == "done"]
    names = sorted({name for settings in done for name in settings})
    # Settings that only some runs have, as those of a baseline, differ among those that have them.
    differ = [name for name in names if len({written(each[name]) for each in done if name in each}) > 1]
    return sorted(differ, key=lambda name: (name != STRENGTH, name == "seed", name))


def points(runs: Sequence[Run]) -> list[Point]:
    """The measured runs, those of equal settings but for the seed together; in order of gating strength."""
    names = [name for name in swept(runs) if name != "seed"]
    together: dict[str, list[Run]] = {}
    for run in runs:
        if run.state == "done" and run.acc50 is not None and run.change is not None:
            rest = {name: value for name, value in learned_from(run).items() if name != "seed"}
            together.setdefault(written(rest), []).append(run)
    made = [point(same, label(same[0], names)) for same in together.values()]
    return sorted(made, key=lambda each: (each.method != "lynx", each.strength, each.label))


def point(runs: Sequence[Run], words: str) -> Point:
    intervals = [run.interval for run in runs]
    uses = [run.gate_use for run in runs if run.gate_use is not None]
    whole = None if None in intervals else (min(low for low, _ in intervals), max(high for _, high in intervals))
    return Point(
        label=words,
        runs=tuple(runs),
        acc50=sum(run.acc50 for run in runs) / len(runs),
        change=sum(run.change for run in runs) / len(runs),
        interval=whole,
        gate_use=sum(uses) / len(uses) if uses else None,
    )


def label(run: Run, names: Sequence[str]) -> str:
    """What sets a run apart, in few words: gate_sparsity=0.01, top_k=2; a run that stands alone goes by its folder.

    A baseline is called by its method, without the settings of the new experts, which it has not.
    """
    settings = learned_from(run)
    parts = [] if run.method == "lynx" else [run.method]
    for name in names:
        if name == "adapter.method" or name not in settings:
            continue
        short = name.rpartition(".")[2]
        alone = sum(other.rpartition(".")[2] == short for other in names) == 1
        parts.append(f"{short if alone else name}={cut(shown(settings[name]), LONGEST)}")
    return ", ".join(parts) if 0 < len(parts) <= MOST_PARTS else run.name


def cut(text: str, longest: int) -> str:
    """At most so many characters, the middle left out: the ends of a long text are what differs."""
    half = (longest - 1) // 2
    return text if len(text) <= longest else f"{text[:half]}…{text[-half:]}"


def shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "null" if value is None else value if isinstance(value, str) else written(value)


def written(value: object) -> str:
    return json.dumps(value, sort_keys=True)


def front(all_points: Sequence[Point]) -> list[Point]:
    """The Pareto front: points that no other one equals or beats in both numbers and beats in one."""
    return [
        each
        for each in all_points
        if not any(
            other.acc50 >= each.acc50
            and other.change >= each.change
            and (other.acc50, other.change) != (each.acc50, each.change)
            for other in all_points
        )
    ]
