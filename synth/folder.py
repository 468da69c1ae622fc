"""A dataset folder on disk: who may write into it, its manifest, and its card for the ``datasets`` library."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

from filelock import FileLock

from synth import engines
from synth.errors import OutputExistsError, SourceError, disk_trouble
from synth.record import FORMAT
from synth.settings import Settings
from synth.sources import source_kind

PARTIAL = ".partial"  # shards of unfinished splits
_PACKAGE = Path(__file__).parent
_CONTENT = (  # code that decides content
    "assets", "check.py", "compose.py", "engines", "languages", "masks.py", "quality/even.py",
    "quality/evaluation_set.py", "quality/gate.py", "quality/hashes.py", "quality/near.py", "record.py", "render.py",
    "rle.py", "scene.py", "shard.py", "sources", "tasks",
)  # fmt: skip


@lru_cache(maxsize=1)
def code_hash() -> str:
    """Return a digest of the code and assets that decide what records say."""
    places = [_PACKAGE / name for name in _CONTENT]
    files = [path for place in places for path in ([place] if place.is_file() else place.rglob("*"))]
    digest = hashlib.sha256()
    for path in sorted(p for p in files if p.is_file() and p.suffix != ".pyc"):
        digest.update(f"{path.relative_to(_PACKAGE).as_posix()}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def describe(settings: Settings) -> dict:
    """Return everything that decides a split's bytes; not the folder, the number of workers or ``overwrite``."""
    named = ("source", "size", "split", "seed", "language", "questions_per_image", "grounding_share", "shard_size",
             "images", "masks", "difficulty", "balance", "licences", "engine")  # fmt: skip
    # ``against`` is told by what its folders hold: see synth.make
    chosen = {name: getattr(settings, name) for name in named}
    fingerprint = source_kind(settings.source).fingerprint(settings)
    return {**chosen, "task": settings.task_names(), "source_options": fingerprint,
            "engine_options": engines.fingerprint(settings), "code": code_hash()}  # fmt: skip


def settings_hash(described: dict) -> str:
    """Return the digest that tells one description from another."""
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def read_manifest(out: Path) -> dict | None:
    """Return the folder's manifest, or None when nothing was finished in it.

    Raises ``OutputExistsError`` when the folder holds files that are no dataset of synth.
    """
    path = out / "manifest.json"
    try:
        if path.exists():
            manifest = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(manifest, dict) and manifest.get("format") == FORMAT and "splits" in manifest:
                return manifest
        elif not out.exists() or not any(out.iterdir()) or (out / PARTIAL).is_dir():
            return None
    except (ValueError, NotADirectoryError):
        pass
    raise OutputExistsError(
        f"{out} exists and is not a dataset folder of this version of synth",
        why="files that synth did not make are never touched, not even with overwrite=true",
        fix="choose another folder with out=..., or remove this one yourself",
    )


def finished(folder: Path) -> dict:
    """Return the manifest of a finished dataset folder; raises ``SourceError`` for any other."""
    manifest = read_manifest(folder) if folder.is_dir() else None
    if manifest is None or not manifest["finished"]:
        raise SourceError(
            f"{folder} is not a finished dataset folder", why="it has no manifest that says so",
            fix="name the folder that python -m synth wrote with out=...",
        )  # fmt: skip
    return manifest


def is_done(manifest: dict | None, out: Path, split: str, described: dict, *, overwrite: bool) -> bool:
    """Whether the split is there as described; raises ``OutputExistsError`` when it is there, but made otherwise."""
    if manifest is None or split not in manifest["splits"] or overwrite:
        return False
    found = manifest["splits"][split]["settings"]
    if found != described:
        names = [name for name, value in described.items() if found.get(name) != value and name != "code"]
        other = [f"{name}: {found.get(name)!r} there, {described[name]!r} asked" for name in names]
        raise OutputExistsError(
            f"{out} already holds split {split!r}, made otherwise ({'; '.join(other) or 'by other code of synth'})",
            why="finished data is replaced only when told so",
            fix="choose another folder with out=..., or add overwrite=true",
        )  # fmt: skip
    return all((out / name).exists() for name in manifest["splits"][split]["files"])


def final_paths(out: Path, split: str, k: int, num_shards: int) -> dict[str, Path]:
    """Return where shard ``k`` goes: {"records": path, "images": path}."""
    return {part: out / part / f"{split}-{k:05d}-of-{num_shards:05d}.parquet" for part in ("records", "images")}


def publish(out: Path, split: str, entry: dict, work: Path, final: dict[int, dict[str, Path]]) -> dict:
    """Move the finished shards from ``work`` to their places, write card and manifest, and return the manifest.

    While files move, the manifest does not speak of the split; an interruption is repaired by running again. Processes
    that finish splits of one folder at the same time wait for each other.
    """
    with disk_trouble(out), _alone_in(out):
        splits = dict((read_manifest(out) or {"splits": {}})["splits"])
        if splits.pop(split, None) is not None:
            _write_manifest(out, splits)
        files = {}
        for k, paths in final.items():
            digests = json.loads((work / f"{k}.json").read_text())["sha256"]
            for part, path in paths.items():
                path.parent.mkdir(exist_ok=True)
                made = work / f"{k}.{part}.parquet"
                if made.exists():
                    os.replace(made, path)
                files[path.relative_to(out).as_posix()] = digests[part]
        for old in (*(out / "records").glob(f"{split}-*.parquet"), *(out / "images").glob(f"{split}-*.parquet")):
            if old.relative_to(out).as_posix() not in files:
                old.unlink()
        splits[split] = {**entry, "files": dict(sorted(files.items()))}
        manifest = _write_manifest(out, splits)
        for leftover in (out / PARTIAL).glob(f"{split}-*"):
            shutil.rmtree(leftover)
    return manifest


@contextmanager
def _alone_in(out: Path) -> Iterator[None]:
    """Hold the lock under which the manifest is read and written anew; leave nothing behind when nobody else is at it.

    The lock is gone with its process. Its file is removed while it is held: who waits for it then makes a new one.
    """
    path = out / PARTIAL / "publish.lock"
    path.parent.mkdir(exist_ok=True)
    with FileLock(path):
        try:
            yield
        finally:
            with suppress(OSError):  # not empty: others' work
                path.unlink()
                path.parent.rmdir()


def discard(work: Path) -> None:
    """Remove what a run that could not begin has left; shards that an earlier one finished stay."""
    if work.exists() and not any(work.glob("*.json")):
        shutil.rmtree(work, ignore_errors=True)
        with suppress(OSError):  # not empty: others' work
            work.parent.rmdir()
            work.parent.parent.rmdir()


def _write_manifest(out: Path, splits: dict) -> dict:
    from synth import __version__

    splits = dict(sorted(splits.items()))
    write_whole(out / "README.md", _card(splits))
    files = {name: digest for entry in splits.values() for name, digest in entry["files"].items()}
    files["README.md"] = hashlib.sha256((out / "README.md").read_bytes()).hexdigest()
    manifest = {
        "format": FORMAT, "synth_version": __version__, "finished": bool(splits),
        "settings": {split: entry["settings"] for split, entry in splits.items()},
        "seed": {split: entry["settings"]["seed"] for split, entry in splits.items()},
        "counts": {split: entry["counts"] for split, entry in splits.items()},
        "quarantined": {split: entry["quarantined"] for split, entry in splits.items()},
        "licences": sorted({licence for entry in splits.values() for licence in entry["licences"]}),
        "files": files, "splits": splits,
    }  # fmt: skip
    write_whole(out / "manifest.json", json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
    return manifest


def _card(splits: dict) -> str:
    configs = []
    for part in ("records", "images"):
        configs += [f"- config_name: {part}", "  data_files:"]
        for split in splits:
            configs += [f"  - split: {split}", f"    path: {part}/{split}-*.parquet"]
    lines = ["---", "license: other", "configs:", *configs, "---", "# Records made by synth", ""]
    lines += ["| split | task | records |", "|---|---|---|"]
    lines += [f"| {split} | {task} | {n} |" for split, entry in splits.items() for task, n in entry["counts"].items()]
    licences = sorted({licence for entry in splits.values() for licence in entry["licences"]})
    joined = "`image_id` (empty: no picture) and, where they are about several, by `more_image_ids`"
    lines += ["", f"Boxes are original pixels, xyxy. `records` join `images` by {joined}.", ""]
    if any(entry["settings"].get("masks") for entry in splits.values()):
        lines += ["`masks` are of the boxes, in order, null where not known: what `pycocotools.mask.decode` takes.", ""]
    lines += ["Licences of the pictures:", *(f"- {licence}" for licence in licences), ""]
    lines += ["```python", "import datasets", 'records = datasets.load_dataset("this folder", "records")', "```"]
    return "\n".join([*lines, ""])


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all."""
    aside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        aside.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
