"""Folders as the benchmarks' authors lay them out, and models that are a function of picture and text."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from lynx_moe.evaluation.protocols import Item, Protocol, Reply, Row, Score


def picture_bytes(size=(6, 4), kind="PNG") -> bytes:
    buffer = BytesIO()
    Image.new("RGB", size, (200, 30, 60)).save(buffer, kind)
    return buffer.getvalue()


def put_pictures(folder: Path, *names: str, size=(6, 4)) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture_bytes(size, "JPEG" if path.suffix in (".jpg", ".jpeg") else "PNG"))


def put_json(path: Path, content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def put_lines(path: Path, rows: Sequence) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8"
    )


def put_table(path: Path, names: Sequence[str], rows: Sequence[Sequence], tab=",") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=tab)
        writer.writerow(names)
        writer.writerows(rows)


def replies_of(item: Item, answer: Callable) -> list[Reply]:
    """`answer(ask)` gives a number for what is scored, words for what is written."""
    return [Reply(score=answer(ask)) if isinstance(ask, Score) else Reply(text=answer(ask.record)) for ask in item.asks]


def ask_all(protocol: Protocol, answer: Callable) -> list[Row]:
    return [protocol.judge(item, replies_of(item, answer)) for item in protocol.items()]


def random_scores(protocol: Protocol, seed=0, *, ties=True) -> tuple[list[Row], dict[str, list[float]]]:
    """Rows over scores of few values, so that there are ties, with some NaN; and the scores of each item."""
    draw = np.random.default_rng(seed)
    rows, scores = [], {}
    for item in protocol.items():
        given = draw.choice([0.1, 0.3, 0.5, 0.7, math.nan] if ties else np.linspace(0, 1, 997), len(item.asks))
        scores[item.id] = given.tolist()
        rows.append(protocol.judge(item, [Reply(score=score) for score in given.tolist()]))
    return rows, scores
