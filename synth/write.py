"""Write a dataset folder: shards made in parallel, resumed after an interruption, published whole with a manifest."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console

from synth import engines, folder
from synth.errors import SourceError, SynthError, disk_trouble
from synth.quality.gate import Gate
from synth.runners import RUNNERS
from synth.runners.shown import Shown
from synth.settings import Settings
from synth.shard import sha256_of
from synth.sources import ENDLESS, FORMATS, Fault, detected, open_source

_FAULTS_NAMED = 200  # rows named in the manifest; all are counted
_ENDLESS_SIZE = 1000  # pictures taken from an endless source when nobody says how many


def make(settings: Settings, *, console: Console | None = None) -> dict:
    """Make the dataset that ``settings`` describe and return its manifest.

    The same settings give byte-identical tables for any number of workers and any number of interruptions. A folder
    that already holds this split with the same settings is left alone. Several splits may be made into one folder.

    Raises:
        SettingsError: a value cannot be used. SourceError: the source cannot be read at all.
        OutputExistsError: the folder holds this split made otherwise, or is no dataset. OutputError: disk trouble.
    """
    console = console or Console(stderr=True)
    settings.check()
    named, settings = settings.source, detected(settings)
    if settings.source != named:
        console.print(f"{settings.folder.path}: read as source={settings.source}")
    out = Path(settings.out)
    gate = Gate(settings)
    # As a manifest gives it back: there a tuple is a list.
    described = json.loads(json.dumps({**folder.describe(settings), "against": gate.fingerprint()}))
    key = folder.settings_hash(described)
    manifest = folder.read_manifest(out)
    if folder.is_done(manifest, out, settings.split, described, overwrite=settings.overwrite):
        console.print(f"{out}: split {settings.split!r} is already made with these settings; nothing to do")
        return manifest
    for notice in engines.notices(settings):
        console.print(notice, markup=False)
    work = out / folder.PARTIAL / f"{settings.split}-{key[:16]}"
    if settings.source in FORMATS:
        console.print(f"{settings.folder.path}: reading the annotations of source={settings.source}")
    try:
        source = open_source(settings, work)
        size = _size(settings, len(source), console)
    except SynthError:
        folder.discard(work)
        raise
    num_shards = math.ceil(size / settings.shard_size)
    with disk_trouble(work):
        work.mkdir(parents=True, exist_ok=True)
    jobs = [(k, range(k * settings.shard_size, min(size, (k + 1) * settings.shard_size))) for k in range(num_shards)]
    final = {k: folder.final_paths(out, settings.split, k, num_shards) for k in range(num_shards)}
    todo = [job for job in jobs if not _kept(work, job[0], final[job[0]])]
    if len(todo) < len(jobs):
        console.print(f"{out}: {len(jobs) - len(todo)} of {len(jobs)} shards are already made; going on")
    before = size - sum(len(indices) for _, indices in todo)
    with Shown(console, f"pictures ({settings.split})", size, before) as shown:
        if todo:
            RUNNERS[settings.runner](settings, source, gate, todo, work, shown)
    reports = [json.loads((work / f"{k}.json").read_text()) for k in range(num_shards)]
    entry = {"settings": described, "settings_hash": key, "size": size, **_sum(reports, getattr(source, "faults", ()))}
    if settings.images == "link":
        entry["pictures_root"] = str(source.root.resolve())
    manifest = folder.publish(out, settings.split, entry, work, final)
    records, pictures = sum(entry["counts"].values()), entry["pictures"]
    console.print(f"{out}: split {settings.split!r} has {records} records over {pictures} pictures")
    if settings.masks:
        console.print(f"  masks: {entry['masks'].get('masks', 0)} of {entry['masks'].get('boxes', 0)} boxes have one")
    for reason, number in sorted(entry["quarantined"].items()):
        console.print(f"  quarantined: {number} x {reason}")
    for reason, number in sorted(entry["rejected"].items()):
        console.print(f"  rejected: {number} x {reason}")
    if settings.engine != "template":
        sent, kept = (sum(report["requests"].get(name, 0) for report in reports) for name in ("sent", "cached"))
        console.print(f"  requests: {sent} sent, {kept} found among the kept answers")
    return manifest


def _size(settings: Settings, available: int, console: Console) -> int:
    if available == 0:
        raise SourceError(
            f"source {settings.source!r} has no pictures in split {settings.split!r}",
            why="there is nothing to make records of",
            fix="choose another split, or a source with pictures; folder.val_fraction divides where a format does not",
        )
    if settings.size is None:
        return _ENDLESS_SIZE if available >= ENDLESS else available
    if settings.size > available:
        console.print(f"size={settings.size}, but split {settings.split!r} has only {available} pictures: all are used")
    return min(settings.size, available)


def _kept(work: Path, k: int, final: dict[str, Path]) -> bool:
    """Whether shard ``k`` was finished by an earlier run: its report is there and its files have the reported bytes."""
    report = work / f"{k}.json"
    if not report.exists():
        return False
    for part, digest in json.loads(report.read_text())["sha256"].items():
        places = (work / f"{k}.{part}.parquet", final[part])  # the second: interrupted while publishing
        if not any(place.exists() and sha256_of(place) == digest for place in places):
            return False
    return True


def _sum(reports: list[dict], source_faults: Iterable[Fault]) -> dict:
    """Add up the shards' reports and the faults which the source has outside of any picture."""
    names = ("counts", "refused", "thinned", "quarantined", "licences", "masks", "rejected", "confidence")
    total = {name: Counter() for name in names}
    for report in reports:
        for name, counter in total.items():
            counter.update(report[name])
    faults = []
    for fault in source_faults:  # perhaps more than memory holds
        total["quarantined"][fault.reason] += 1
        if len(faults) < _FAULTS_NAMED:
            faults.append([fault.reason, fault.row])
    faults += [fault for report in reports for fault in report["faults"]]
    return {
        "pictures": sum(report["pictures"] for report in reports),
        **{name: dict(sorted(counter.items())) for name, counter in total.items()}, "faults": faults[:_FAULTS_NAMED],
    }  # fmt: skip
