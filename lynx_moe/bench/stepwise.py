"""`lynx-moe bench stepwise`: a stepwise answer's steps in one forward against a forward for each, as in the paper."""

from __future__ import annotations

import sys

from lynx_moe.bench.passes import Bench, bench_records
from lynx_moe.bench.step import POCKET
from lynx_moe.bench.timing import prepared
from lynx_moe.data.prompts import STEPWISE_SUFFIX
from lynx_moe.data.steps import NEXT_STEP_SUFFIX

MAKE = ("source=rendered", "size=400", "task=[relation,multi_hop]", "questions_per_image=2")
NEXT, ALL = NEXT_STEP_SUFFIX, STEPWISE_SUFFIX.strip()
# The same supervision: faithful and packed with the paper's suffix; then, where suffixes differ, packed in segments.
WAYS = {
    "faithful": {"stepwise": "faithful", "step_suffixes": [NEXT]},
    "packed": {"stepwise": "packed", "step_suffixes": [NEXT]},
    "packed_segments": {"stepwise": "packed", "step_suffixes": [ALL, NEXT]},
}


def bench_stepwise(
    path: str = POCKET,
    *,
    data: str | None = None,
    split: str = "train",
    records: int = 64,
    batch: int = 8,
    layers: str = "every_other",
    attention: str | None = "eager",
    precision: str = "auto",
    repeats: int = 5,
    seconds: float = 60.0,
    threads: int | None = None,
) -> dict:
    """Times passes over stepwise records with the steps of a record one by one and together, in turn.

    Args:
        data: folder of records; None: synth draws some. records: how many, at most. batch: records per step.

    Returns:
        "rows", one per way, with `way, rows` (of all batches), `tokens` (padding included), `records_per_second`,
        `ratio_to_faithful` (of seconds, below 1 is faster), `ratio_low, ratio_high` (quartiles), `seconds, rounds`;
        "setting", what was measured where.
    """
    with prepared(threads), bench_records(data, split, MAKE, records, lambda record: bool(record.steps)) as chosen:
        bench = Bench(path, chosen, attention=attention, layers=layers, precision=precision)
        ways = {name: bench.way(batch, **changes) for name, changes in WAYS.items()}
        timed = bench.time(ways, to="faithful", repeats=repeats, seconds=seconds)
        rows = []
        for name, found in timed.items():
            row = {"way": name, "rows": ways[name].rows, "tokens": ways[name].tokens}
            row |= {"ratio_to_faithful": found.pop("ratio"), **found}
            rows.append(row)
            print(
                f"{name:16} {row['records_per_second']:8.1f} records/s, {row['tokens']} tokens in {row['rows']} rows; "
                f"seconds to faithful's {row['ratio_to_faithful']:.3f} "
                f"(quartiles {row['ratio_low']:.3f} to {row['ratio_high']:.3f}, {row['rounds']} rounds)",
                file=sys.stderr,
            )
        steps = [len(record.steps) + 1 for record in chosen]
        setting = bench.setting() | {"steps_per_record": sum(steps) / len(steps), "batch": batch, "layers": layers}
    return {"ok": True, "rows": rows, "setting": setting}
