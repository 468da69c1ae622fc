"""`lynx-moe bench packing`: packed rows against padded batches, in records and tokens per second."""

from __future__ import annotations

import sys

from lynx_moe.bench.passes import Bench, bench_records
from lynx_moe.bench.step import POCKET
from lynx_moe.bench.timing import prepared
from lynx_moe.data.packing import FLASH, attention_of

MAKE = (
    "source=rendered", "size=400", "task=[find_one,relation,absent,find_all]", "questions_per_image=6",
)  # fmt: skip


def bench_packing(
    path: str = POCKET,
    *,
    data: str | None = None,
    split: str = "train",
    records: int = 256,
    batch: int = 16,
    pack_tokens: int = 256,
    layers: str = "every_other",
    attention: str | None = "eager",
    precision: str = "auto",
    repeats: int = 5,
    seconds: float = 60.0,
    threads: int | None = None,
) -> dict:
    """Times passes over the same records, padded and packed, in turn; every way has about as many records per step.

    Args:
        data: folder of records; None: synth draws some. records: how many, at most. batch: records per step.
        pack_tokens: of a packed row.

    Returns:
        "rows", one per way, with `way, rows` (of all batches), `tokens` (computed, padding included), `padding` (its
        share), `records_per_second`, `tokens_per_second` (tokens that the records have without packing or padding, so
        the same pass for every way), `ratio_to_random` (of seconds, below 1 is faster), `ratio_low, ratio_high`
        (quartiles), `seconds, rounds`; "left_out", what this attention cannot do; "setting", what was measured where.
    """
    with prepared(threads), bench_records(data, split, MAKE, records) as chosen:
        bench = Bench(path, chosen, attention=attention, layers=layers, precision=precision)
        flash = attention_of(bench.base) in FLASH
        ways = {"random": bench.way(batch), "by_length": bench.way(batch, by_length=True)}
        for packing in ("sequence",) if flash else ("picture", "sequence"):
            ways[packing] = bench.way(batch, packing=packing, pack_tokens=pack_tokens)
        useful = ways["random"].filled
        timed = bench.time(ways, to="random", repeats=repeats, seconds=seconds)
        rows = []
        for name, found in timed.items():
            way = ways[name]
            row = {
                "way": name,
                "rows": way.rows,
                "tokens": way.tokens,
                "padding": 1 - way.filled / way.tokens,
                "tokens_per_second": useful / found["seconds"],
                "ratio_to_random": found.pop("ratio"),
                **found,
            }
            rows.append(row)
            print(
                f"{name:10} {row['records_per_second']:8.1f} records/s, {row['tokens_per_second']:8.0f} tokens/s, "
                f"{way.tokens} tokens in {way.rows} rows, {row['padding']:.1%} padding; seconds to random's "
                f"{row['ratio_to_random']:.3f} (quartiles {row['ratio_low']:.3f} to {row['ratio_high']:.3f}, "
                f"{row['rounds']} rounds)",
                file=sys.stderr,
            )
        setting = bench.setting() | {"batch": batch, "pack_tokens": pack_tokens, "layers": layers, "useful": useful}
    return {"ok": True, "rows": rows, "left_out": ["picture"] if flash else [], "setting": setting}
