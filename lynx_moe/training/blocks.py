"""What every block does while a model trains: how open its gate is and which experts its tokens go to."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from lynx_moe.whole import write_json

Blocks = dict[str, dict[str, float | int | list[float]]]


class BlockTelemetry:
    """Adds up what `penalty_values` saw, on the device, and reads it where a log is written.

    Exact over micro-batches and processes: counts and sums are added, shares are made of the totals.
    """

    def __init__(self):
        self.sums: dict[str, Tensor] = {}

    def add(self, blocks: dict[str, dict[str, Tensor]]) -> None:
        """One micro-batch."""
        for name, seen in blocks.items():
            row = torch.cat([torch.stack([seen["tokens"], seen["gate"], seen["open"]]), seen["used_E"]])
            # Counts of a long stretch outgrow what float32 counts exactly; MPS has nothing longer.
            row = row if row.device.type == "mps" else row.double()
            self.sums[name] = row + self.sums.get(name, 0)

    def read(self, add_up: Callable[[Tensor], Tensor]) -> Blocks:
        """Per block, of all tokens since the last call: "gate" (mean), "open" (share of tokens whose strongest gate is
        above one half), "experts" (share of tokens that each got), "entropy" (of the experts' use, in nats: log of
        their number when even), "dead" (experts without a token) and "tokens".

        Args:
            add_up: sums a tensor over all processes.
        """
        if not self.sums:
            return {}
        first = next(iter(self.sums.values()))
        totals = add_up(torch.stack([row.to(first.device) for row in self.sums.values()])).tolist()
        found = {}
        for name, (tokens, gate, opened, *used) in zip(self.sums, totals, strict=True):
            number = max(tokens, 1.0)
            share = torch.tensor(used, dtype=torch.float64) / max(sum(used), 1.0)
            found[name] = {
                "gate": gate / number,
                "open": opened / number,
                "experts": [count / number for count in used],
                "entropy": -torch.xlogy(share, share).sum().item() + 0.0,
                "dead": sum(count == 0 for count in used),
                "tokens": int(tokens),
            }
        self.sums = {}
        return found


def over_all(blocks: Blocks) -> dict[str, float]:
    """The blocks' numbers in four, for the log: means of "gate", "open" and "expert_entropy", sum of "dead_experts"."""
    if not blocks:
        return {}
    # fsum: the same bits whatever the order of the blocks.
    of_all = {name: math.fsum(block[name] for block in blocks.values()) for name in ("gate", "open", "entropy")}
    mean = {name: total / len(blocks) for name, total in of_all.items()}
    dead = sum(block["dead"] for block in blocks.values())
    return {"gate": mean["gate"], "open": mean["open"], "expert_entropy": mean["entropy"], "dead_experts": dead}


def scalars(blocks: Blocks) -> dict[str, float]:
    """Every number of every block under a name of its own, as TensorBoard and its like take them."""
    found = {}
    for name, block in blocks.items():
        for key, value in block.items():
            if key == "experts":
                found |= {f"block/{name}/expert_{k}": share for k, share in enumerate(value)}
            elif key != "tokens":
                found[f"block/{name}/{key}"] = value
    return found


class BlockFile:
    """`blocks.jsonl`: a row per log, {"step": ..., "blocks": {name: ...}}, written while the model trains."""

    def __init__(self, path: Path):
        self.path = path
        self._begun = False

    def write(self, step: int, blocks: Blocks, *, since: int) -> None:
        """Adds a row. Rows after `since`, the step this program began at, are an interrupted run's and make way."""
        if not self._begun:
            earlier = [row for row in read_rows(self.path) if row["step"] <= since]
            write_json(self.path, "".join(json.dumps(row) + "\n" for row in earlier))
            self._begun = True
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "blocks": blocks}) + os.linesep)


def read_rows(path: Path) -> list[dict]:
    """The rows of a `blocks.jsonl`; the end of one that a killed process left half written is passed over."""
    rows = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:
                break
    return rows
