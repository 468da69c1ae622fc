"""One protocol asked of one model, in parts on disk: it can be killed anywhere and goes on to the same numbers."""

from __future__ import annotations

import hashlib
import heapq
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from rich.progress import Progress, TextColumn, TimeElapsedColumn

from lynx_moe.errors import ConfigError, RecordError
from lynx_moe.evaluation.asking import Asker
from lynx_moe.evaluation.protocols.base import Item, Protocol, Row, Write
from lynx_moe.evaluation.rows import Part, RowKey, read_part, writable, write_part
from lynx_moe.whole import clear_leftovers

BATCHES = 4  # to a part: prompts of like length share a batch, so more of them waste less


@dataclass(frozen=True, slots=True)
class Measured:
    """Rows of all items that could be asked, in the files' order, and what could not be used, counted by kind."""

    rows: list[Row]
    faults: dict[str, int]


def measure(
    protocol: Protocol, asker: Asker, folder: Path, *, limit: int | None = None, progress: bool = True
) -> Measured:
    """Asks every item, or `limit` of them, and keeps what is done in `folder`, part by part.

    A part is the same items in the same batches however often the run was interrupted, so numbers do not depend on it.

    Args:
        folder: of this protocol and this model alone.
        limit: ask only so many items: those with the smallest sha256 of their id, so the same every time.

    Raises:
        RecordError: there is nothing to ask, or nothing that can be asked.
        ConfigError: `folder` holds rows of other items: the data changed.
    """
    asker.check(protocol)
    folder.mkdir(parents=True, exist_ok=True)
    clear_leftovers(folder)
    rows: list[Row] = []
    left_out: Counter[str] = Counter()
    twice: Counter[str] = Counter()
    items = asked = 0
    protocol.faults.clear()
    with Progress(TextColumn("{task.description}"), TimeElapsedColumn(), disable=not progress, transient=True) as bar:
        task = bar.add_task(protocol.name)
        found = chosen(unique(protocol.items(), twice), limit)
        for number, window in enumerate(windows(found, BATCHES * asker.batch_size)):
            path = folder / f"{number:05d}.parquet"
            digests = [asker.digest(item) for item in window]
            part = read_part(path) if path.is_file() else None
            if part is None or not same_items(part, digests, path):
                part = ask(protocol, asker, window, digests)
                write_part(path, part)
            rows += part.rows
            left_out += part.left_out
            items, asked = items + len(window), asked + len(part.rows)
            bar.update(task, description=f"{protocol.name}: {items} asked")
    faults = dict(sorted((Counter(protocol.faults) + twice + left_out).items()))
    if not asked:
        said = ", ".join(f"{kind}: {count}" for kind, count in faults.items()) or "the split is empty"
        raise RecordError(
            f"nothing of {protocol.name} in {protocol.folder} can be asked",
            why=said,
            fix="check the folder and the split; pictures must lie where the annotations say",
        )
    return Measured(rows, faults)


def ask(protocol: Protocol, asker: Asker, items: list[Item], digests: list[str]) -> Part:
    replies, left_out = asker(items, protocol.max_new_tokens)
    rows = []
    for item, given in zip(items, replies, strict=True):
        if given is not None:
            row = protocol.judge(item, given)
            row.picture = picture_of(item)
            rows.append(writable(row))
    return Part(rows, digests, left_out)


def picture_of(item: Item) -> str:
    """Names the picture or pictures of an item, a line each: those of one name are the same; its id where none says."""
    names = [ask.record.image_id if isinstance(ask, Write) else ask.image_id for ask in item.asks]
    return "\n".join(name for name in dict.fromkeys(names) if name) or item.id


def unique(items: Iterable[Item], twice: Counter[str]) -> Iterator[Item]:
    """`items` without those whose id was there before, which `twice` counts: rows are paired by it."""
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            twice["duplicate id"] += 1
        else:
            seen.add(item.id)
            yield item


def chosen(items: Iterable[Item], limit: int | None) -> Iterator[Item]:
    """All items, or the `limit` whose ids have the smallest sha256, in the files' order either way."""
    if limit is None:
        return iter(items)
    ranked = ((hashlib.sha256(item.id.encode()).digest(), number, item) for number, item in enumerate(items))
    kept = heapq.nsmallest(limit, ranked, key=lambda entry: entry[:2])
    return (item for _, _, item in sorted(kept, key=lambda entry: entry[1]))


def windows(items: Iterator[Item], size: int) -> Iterator[list[Item]]:
    while window := list(islice(items, size)):
        yield window


def same_items(part: Part, digests: list[str], path: Path) -> bool:
    """Whether `part` answers just these items; False where only pictures came that could not be opened then.

    Raises:
        ConfigError: it answers others: words, truth or pictures changed.
    """
    if len(part.items) != len(digests) or any(old and old != now for old, now in zip(part.items, digests, strict=True)):
        raise ConfigError(
            f"{path.parent} holds answers to other questions",
            why="words, truth or pictures of the protocol's files changed since the run began",
            fix="--restart throws away what was answered, or choose another --out",
        )
    return part.items == digests


def folder_of(out: Path, key: RowKey) -> Path:
    """Where the parts of `key` are: readable, and no two keys share one."""
    text = "-".join(part for part in (key.side, key.variant, key.protocol) if part)
    digest = hashlib.sha256(json.dumps([key.side, key.variant, key.protocol]).encode()).hexdigest()[:8]
    return out / "parts" / f"{re.sub(r'[^A-Za-z0-9]+', '-', text)[:80]}-{digest}"
