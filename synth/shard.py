"""Make one shard: the records and pictures of a run of consecutive scenes, in two Parquet files."""

from __future__ import annotations

import hashlib
import os
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import groupby
from math import lcm
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from synth.engines import open_engine
from synth.engines.base import Made
from synth.errors import disk_trouble
from synth.languages import load_pack
from synth.masks import SceneMasks, add_masks, check_masks, count_masks
from synth.quality.even import Asked, even
from synth.quality.gate import Gate
from synth.record import IMAGES, RECORDS, check_record, image_id_of, make_picture, make_record, named_pictures, table
from synth.scene import Scene
from synth.settings import Settings
from synth.sources import Fault, PictureFault, Source
from synth.tasks import TASKS
from synth.tasks.base import KINDS
from synth.tasks.difficulty import HARDEST

_PICTURES_PER_GROUP = 100  # a Parquet row group: what a reader must load to see one picture, and what we hold in memory
_FAULTS_NAMED = 20  # rows named per reason and shard; all are counted


def scene_records(
    scene: Scene, settings: Settings, names: list[str], groups: Mapping[int, tuple[Scene, ...]] | None = None
) -> tuple[list[dict], Counter]:
    """Return the rows of every task in ``names`` for one scene, and how often each task refused it (0 or 1).

    ``groups`` has, by number of pictures, the groups of scenes that begin with this one: without its group a task
    about several pictures is not asked. Such rows count as questions about the first picture.

    With ``grounding_share`` a picture is asked one kind of question only, so that a group must agree on it. With
    ``questions_per_image`` a random subset of the rows is kept, in their order. Every random choice comes from a
    stream named after seed, split, source, task and index, so no row depends on another picture or on other tasks.
    """
    rows, refused = [], Counter()
    pack = load_pack(settings.language)
    groups = {1: (scene,), **(groups or {})}
    translated = {id(each): pack.translate(each) for group in groups.values() for each in group}
    kinds = {size: _kinds_of(group, settings) for size, group in groups.items()}
    stream = f"{settings.seed}/{settings.split}/{scene.source}"
    low, high = settings.difficulty or (1, HARDEST)
    for name in names:
        task, seed = TASKS[name], f"{stream}/{name}/{scene.index}"
        if task.kind not in kinds.get(task.pictures, ()):
            continue
        about = tuple(translated[id(each)] for each in groups[task.pictures])
        asked = task.ask(about[0] if task.pictures == 1 else about, random.Random(seed), settings.split, pack)
        refused[name] += not asked
        for k, (facts, draft) in enumerate(asked):
            if settings.difficulty is not None and not low <= draft.difficulty <= high:
                continue
            rows.append(
                make_record(draft, facts=facts, task=name, kind=task.kind,
                            image_id=image_id_of(scene, settings.split) if task.needs_image else "", scene=scene,
                            split=settings.split, language=settings.language, seed=seed, k=k,
                            more=groups[task.pictures][1:])
            )  # fmt: skip
            check_record(rows[-1], scene.width, scene.height, *((s.width, s.height) for s in about[1:]))
            rows[-1]["about"] = tuple(draft.about)  # for thinning; no column of the table
    wanted = settings.questions_per_image
    if wanted is not None and len(rows) > wanted:
        picked = random.Random(f"{stream}/{scene.index}/questions_per_image").sample(range(len(rows)), wanted)
        rows = [rows[k] for k in sorted(picked)]
    return rows, refused


def _kinds_of(group: tuple[Scene, ...], settings: Settings) -> set[str]:
    """The kinds of questions that all pictures of the group are asked."""
    kinds = set(KINDS)
    for scene in group if settings.grounding_share is not None else ():
        stream = f"{settings.seed}/{settings.split}/{scene.source}/{scene.index}/grounding_share"
        grounds = random.Random(stream).random() < settings.grounding_share
        kinds &= {"grounding" if grounds else "understanding"}
    return kinds


def grouped(
    scenes: Iterable[Scene], start: int, names: list[str]
) -> Iterator[tuple[Scene, dict[int, tuple[Scene, ...]]]]:
    """Yield each scene with the groups of scenes that begin with it, by their number, for tasks about several pictures.

    Groups of n are places 0 to n - 1, n to 2n - 1 .. of the shard that begins with index ``start``, whatever else is
    asked; one that lacks a scene is none. So no group depends on the other tasks or on what other shards hold.

    Args:
        scenes: scenes of one shard, by rising index.
        names: the chosen tasks.
    """
    sizes = {TASKS[name].pictures for name in names} - {1}
    for _, together in groupby(scenes, lambda scene: (scene.index - start) // lcm(*sizes)):
        here = {scene.index: scene for scene in together}
        for index, scene in here.items():
            found = {size: tuple(here.get(index + k) for k in range(size)) for size in sizes
                     if (index - start) % size == 0}  # fmt: skip
            yield scene, {size: group for size, group in found.items() if None not in group}


def make_shard(
    source: Source, gate: Gate, settings: Settings, indices: range, records: Path, images: Path,
    tick: Callable[[int], None],
) -> dict:  # fmt: skip
    """Write the scenes ``indices`` into the two files and return the shard's report: counts, faults, sha256 of both.

    A picture that no record speaks of is not stored; one that cannot be stored takes the records that need it with it.
    Both files appear whole or not at all. ``tick(1)`` is called
    once per scene, ``tick(0)`` while the engine waits.
    """
    names = settings.task_names()
    counts, refused, thinned, quarantined, licences, masked = (Counter() for _ in range(6))
    kept = _evened(source, gate, settings, indices, names) if settings.balance else None
    faults: list[list[str]] = []
    pictures = 0
    object_faults = getattr(source, "object_faults", lambda index: ())  # only sources of foreign data have them

    def quarantine(fault: Fault) -> None:
        quarantined[fault.reason] += 1
        if quarantined[fault.reason] <= _FAULTS_NAMED:
            faults.append([fault.reason, fault.row])

    def read() -> Iterator[Scene]:
        for index in indices:
            tick(1)
            try:
                scene = source.scene(index, settings.split, settings.seed)
                gate.check(scene)
            except PictureFault as problem:
                quarantine(problem.fault)
                continue
            for fault in object_faults(index):
                quarantine(fault)
            yield scene

    def asked(scenes: Iterator[Scene]) -> Iterator[Made]:
        for scene, groups in grouped(scenes, indices.start, names):
            rows, refusals = scene_records(scene, settings, names, groups)
            refused.update(refusals)
            if kept is not None:
                stay = [row["id"] in kept or not TASKS[row["task"]].closed for row in rows]
                thinned.update(row["task"] for row, stays in zip(rows, stay, strict=True) if not stays)
                rows = [row for row, stays in zip(rows, stay, strict=True) if stays]
            yield max(groups.values(), key=len, default=(scene,)), rows

    made: dict[str, dict | None] = {}  # pictures of the scenes at hand, None for a bad one; and which are written
    stored: set[str] = set()
    masks: dict[str, SceneMasks] = {}

    def picture_of(scene: Scene, image_id: str) -> dict | None:
        if image_id not in made:
            try:  # the pixels are read only now, for a picture that is asked about; nothing of a bad one is written
                made[image_id] = make_picture(scene, image_id, link=settings.images == "link")
            except PictureFault as problem:
                quarantine(problem.fault)
                made[image_id] = None
        return made[image_id]

    with (
        open_engine(settings, records.parent, lambda: tick(0)) as engine,
        _writer(records, RECORDS, "zstd") as write_records,
        _writer(images, IMAGES, "none") as write_image,
    ):
        for scenes, rows in engine.rows(asked(engine.scenes(read(), quarantine))):
            by_id = {image_id_of(scene, settings.split): scene for scene in scenes}
            own = next(iter(by_id))
            named = [name for row in rows for name in named_pictures(row)]
            bad = {name for name in dict.fromkeys(named) if picture_of(by_id[name], name) is None}
            rows = [row for row in rows if own not in bad and bad.isdisjoint(named_pictures(row))]
            for row in rows:
                if settings.masks:
                    for name in set(named_pictures(row)) - masks.keys():
                        masks[name] = SceneMasks(by_id[name], quarantine)
                    add_masks(row, [masks[name] for name in named_pictures(row)])
                    check_masks(row)
                    masked.update(count_masks(row))
                write_records(row)
                counts[row["task"]] += 1
                licences[row["licence"]] += 1
            for name in dict.fromkeys(name for row in rows for name in named_pictures(row)):
                if name not in stored:
                    stored.add(name)
                    write_image(made[name])
                    pictures += 1
            made.pop(own, None)
            masks.pop(own, None)
            stored.discard(own)
    return {
        "pictures": pictures, "counts": dict(counts), "refused": {k: v for k, v in refused.items() if v},
        "thinned": dict(thinned), "quarantined": dict(quarantined), "faults": faults,
        "licences": {k: v for k, v in licences.items() if v}, "masks": dict(masked), **engine.report(),
        "sha256": {"records": sha256_of(records), "images": sha256_of(images)},
    }  # fmt: skip


def _evened(source: Source, gate: Gate, settings: Settings, indices: range, names: list[str]) -> set[str]:
    """Return the ids of the closed tasks' records that stay, from a pass over the scenes that writes nothing."""
    if settings.questions_per_image is None:  # else what is kept of a picture depends on all its questions
        names = [name for name in names if TASKS[name].closed]

    def read() -> Iterator[Scene]:
        for index in indices:
            try:
                scene = source.scene(index, settings.split, settings.seed)
                gate.check(scene)
            except PictureFault:
                continue
            yield scene

    def asked() -> Iterator[Asked]:
        for scene, groups in grouped(read(), indices.start, names):
            for row in scene_records(scene, settings, names, groups)[0]:
                if TASKS[row["task"]].closed:
                    yield Asked(row["id"], row["task"], row["answer"], row["about"])

    return even(asked(), f"{settings.seed}/{settings.split}")


def sha256_of(path: Path) -> str:
    """Return the hex digest of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _writer(path: Path, schema: pa.Schema, compression: str) -> Iterator[Callable[[dict], None]]:
    """Yield a function that appends a row; the file is written aside and takes its place only when all went well."""
    aside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    rows: list[dict] = []
    limit = _PICTURES_PER_GROUP if schema is IMAGES else 10 * _PICTURES_PER_GROUP
    parquet = None

    def flush() -> None:
        with disk_trouble(path):
            parquet.write_table(table(rows, schema))
        rows.clear()

    def append(row: dict) -> None:
        rows.append(row)
        if len(rows) >= limit:
            flush()

    try:
        with disk_trouble(path):
            parquet = pq.ParquetWriter(aside, schema, compression=compression)
        yield append
        if rows:
            flush()
        with disk_trouble(path):
            parquet.close()
            os.replace(aside, path)
    finally:
        if parquet is not None and parquet.is_open:
            with suppress(OSError):  # the disk that failed us may fail again; the first error is the one to show
                parquet.close()
        aside.unlink(missing_ok=True)
