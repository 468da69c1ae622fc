"""The rows of the comparison, over seeds, as plain data and as a table to read."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from pathlib import Path

from lynx_moe.perception.accuracy import CHANCE
from lynx_moe.whole import write_bytes, write_json

COLUMNS = {
    "individual": "individual", "pair": "pair", "set": "set", "left_right": "left/right pair",
    "above_below": "above/below pair",
}  # fmt: skip


@dataclass(slots=True)
class Found:
    """One method: accuracies of each seed, one alone for a method that learns nothing; seconds of all seeds.

    `trained` is how many parameters learned.
    """

    name: str
    pairs_seen: int
    trained: int = 0
    seeds: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0

    def summary(self) -> dict:
        """Mean over the seeds, and the sample's standard deviation; None of one seed."""
        values = {name: [seed[name] for seed in self.seeds] for name in CHANCE}
        return {
            "method": self.name,
            "pairs_seen": self.pairs_seen,
            "trained_parameters": self.trained,
            "seconds": round(self.seconds, 1),
            "mean": {name: statistics.fmean(each) for name, each in values.items()},
            "spread": {name: statistics.stdev(each) if len(each) > 1 else None for name, each in values.items()},
            "seeds": self.seeds,
        }


def markdown(found: dict) -> str:
    """The table in per cent: mean, and behind it in brackets the spread over the seeds."""
    lines = [
        f"| method | pairs seen | {' | '.join(COLUMNS.values())} |",
        f"| --- | ---: | {' | '.join('---:' for _ in COLUMNS)} |",
    ]
    for row in found["rows"]:
        cells = [_cell(row["mean"][name], row["spread"][name]) for name in COLUMNS]
        lines.append(f"| {row['method']} | {row['pairs_seen']:,} | {' | '.join(cells)} |")
    chance = [_cell(found["chance"][name], None) for name in COLUMNS]
    return "\n".join([*lines, f"| chance | | {' | '.join(chance)} |"]) + "\n"


def _cell(mean: float, spread: float | None) -> str:
    return f"{100 * mean:.1f}" + ("" if spread is None else f" ({100 * spread:.1f})")


def written(found: dict, folder: Path) -> dict:
    """`found`, printed and written to `perception.json` and `perception.md` in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "perception.json", found)
    write_bytes(folder / "perception.md", markdown(found).encode())
    print(markdown(found))
    return found
