"""Rows on disk: Parquet of plain types, written in parts, each of them there wholly or not at all."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from lynx_moe.errors import CheckpointError
from lynx_moe.evaluation.protocols.base import Row
from lynx_moe.whole import write_bytes

TEXTS, NUMBERS = pa.list_(pa.string()), pa.list_(pa.float64())
# Dictionaries differ from protocol to protocol, so they are kept as JSON.
AS_JSON = ("truth", "errors", "numbers")
ROW = {
    "id": pa.string(), "group": pa.string(), "asked": TEXTS, "truth": pa.string(), "answers": TEXTS, "scores": NUMBERS,
    "boxes": pa.list_(NUMBERS), "confidences": NUMBERS, "errors": pa.string(), "right": pa.bool_(),
    "numbers": pa.string(), "picture": pa.string(), "labels": TEXTS,
}  # fmt: skip
KEY = ("side", "variant", "protocol")
ABOUT = b"lynx_moe"


@dataclass(frozen=True, slots=True)
class RowKey:
    """Which rows belong together: one protocol (`protocol` is its label), asked of one model under one condition.

    `side` is "after" for the model itself and "before" for the one it is compared with; `variant` is "" for plain
    pictures and the last state, else "blur 3" or "step 400".
    """

    side: str
    variant: str
    protocol: str


@dataclass(slots=True)
class Part:
    """Rows of consecutive items, what each item asked (`Asker.digest`), and those that gave no row, by kind."""

    rows: list[Row]
    items: list[str]
    left_out: Counter[str] = field(default_factory=Counter)


def writable(row: Row) -> Row:
    """`row` with texts that a file can hold: models and data write halves of characters that UTF-8 has no bytes for."""
    # Dictionaries become JSON, which writes such halves as escapes.
    lists = {name: [as_utf8(text) for text in getattr(row, name)] for name in ("asked", "answers", "labels")}
    return replace(row, **lists, **{name: as_utf8(getattr(row, name)) for name in ("id", "group", "picture")})


def as_utf8(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")


def columns(rows: Sequence[Row]) -> dict[str, list]:
    found = {f.name: [getattr(row, f.name) for row in rows] for f in fields(Row)}
    return found | {name: [json.dumps(value, sort_keys=True) for value in found[name]] for name in AS_JSON}


def write_part(path: Path, part: Part) -> None:
    """Raises CheckpointError when writing failed."""
    about = json.dumps({"items": part.items, "left_out": part.left_out}, sort_keys=True)
    table = pa.table(columns(part.rows), schema=pa.schema(ROW, metadata={ABOUT: about.encode()}))
    write_bytes(path, as_bytes(table))


def read_part(path: Path) -> Part:
    """Raises CheckpointError when the file is not what `write_part` wrote."""
    table = read_table(path)
    about = json.loads((table.schema.metadata or {}).get(ABOUT, b"{}"))
    if "items" not in about:
        raise broken(path, "it is not marked as a part of an evaluation")
    return Part(rows_of(table), about["items"], Counter(about["left_out"]))


def write_rows(path: Path, groups: dict[RowKey, list[Row]]) -> None:
    """All rows in one file, those of one key together. Raises CheckpointError when writing failed."""
    schema = pa.schema({name: pa.string() for name in KEY} | ROW)
    tables = [
        pa.table({name: [getattr(key, name)] * len(rows) for name in KEY} | columns(rows), schema=schema)
        for key, rows in groups.items()
    ]
    write_bytes(path, as_bytes(pa.concat_tables(tables)))


def read_rows(path: Path) -> dict[RowKey, list[Row]]:
    """What `write_rows` wrote. Raises CheckpointError when there is no such file."""
    table = read_table(path)
    missing = [name for name in (*KEY, *ROW) if name not in table.column_names]
    if missing:
        raise broken(path, f"it has no column {missing[0]!r}")
    keys = zip(*(table.column(name).to_pylist() for name in KEY), strict=True)
    groups: dict[RowKey, list[Row]] = {}
    for key, row in zip(keys, rows_of(table), strict=True):
        groups.setdefault(RowKey(*key), []).append(row)
    return groups


def rows_of(table: pa.Table) -> list[Row]:
    rows = table.select(list(ROW)).to_pylist()
    return [Row(**row | {name: json.loads(row[name]) for name in AS_JSON}) for row in rows]


def read_table(path: Path) -> pa.Table:
    try:
        return pq.read_table(path)
    except (OSError, pa.ArrowException) as problem:
        raise broken(path, str(problem).splitlines()[0]) from problem


def broken(path: Path, why: str) -> CheckpointError:
    return CheckpointError(f"{path} cannot be read as rows", why=why, fix="evaluate again, with --restart")


def as_bytes(table: pa.Table) -> bytes:
    out = io.BytesIO()
    pq.write_table(table, out)
    return out.getvalue()
