"""A folder of records, as synth writes it: opened without reading it into memory, refused when it is not whole."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lynx_moe.data.records import NO_PICTURE, Further, RecordSet
from lynx_moe.errors import RecordError, nearest

COLUMNS = "id image_id question steps answer boxes phrase task kind source split licence".split()
MORE = "more_image_ids"
CACHE = ".cache"
KINDS = ("grounding", "understanding")
SEVERAL = "several"  # among tasks: all that are about several pictures


def load_records(
    folder: str | Path,
    split: str,
    kinds: Sequence[str] | None = None,
    tasks: Sequence[str] | None = None,
    limit: int | None = None,
    pictures_root: str | Path | None = None,
) -> RecordSet:
    """Open one split of a folder of records.

    Args:
        folder: what `python -m synth` wrote: `manifest.json`, `records/` and `images/`.
        split: for example "train".
        kinds: keep only these kinds; None keeps both.
        tasks: keep only these tasks, where "grounding" and "understanding" stand for all tasks of that kind about one
            picture, as in synth, and "several" for all records about several pictures; None keeps all.
        limit: keep a fixed random subset of this many (the same for everybody), in the order of the folder.
        pictures_root: folder of the pictures, where the data only names them (`images=link`); None takes the folder
            that the manifest names.

    Raises:
        RecordError: the folder is missing or unfinished, has no such split, kind or task, or does not fit the format.
    """
    folder = Path(folder)
    manifest = _checked_manifest(folder)
    records = _open(folder, "records", split)
    images = _open(folder, "images", split, optional=True)
    missing = [name for name in COLUMNS if name not in records.column_names]
    if missing:
        raise RecordError(
            f"records of {folder} have no column {missing[0]!r}",
            why=f"they have {', '.join(records.column_names)}",
            fix="make the data again with the synth of this version",
        )
    rows = _chosen(records, folder, kinds=kinds, tasks=tasks, limit=limit)
    root = pictures_root or (manifest.get("splits", {}).get(split) or {}).get("pictures_root")
    picture_rows = _picture_rows(records.data.column("image_id"), images, folder)[rows]
    pictures_root, further = None if root is None else Path(root), _further(records, images, folder)
    return RecordSet(records, images, _sizes(images), rows, picture_rows, pictures_root, further)


def _checked_manifest(folder: Path) -> dict:
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
    except FileNotFoundError:
        raise RecordError(
            f"{folder} holds no finished records",
            why="there is no manifest.json, which synth writes last",
            fix="run python -m synth with this folder as out=...",
        ) from None
    except ValueError as error:
        raise RecordError(
            f"{folder / 'manifest.json'} is not JSON", why=str(error), fix="make the data again"
        ) from None
    if not isinstance(manifest, dict) or manifest.get("finished") is not True:
        raise RecordError(
            f"the records in {folder} are unfinished",
            why="the manifest does not say finished: true",
            fix="run the same synth command again; it goes on where it stopped",
        )
    return manifest


def _open(folder: Path, table: str, split: str, *, optional: bool = False):
    """One parquet table as a memory-mapped dataset, pictures left encoded."""
    import datasets

    shards = sorted((folder / table).glob(f"{split}-*-of-*.parquet"))
    if not shards:
        if optional:
            return None
        known = sorted({path.name.split("-")[0] for path in (folder / table).glob("*-of-*.parquet")})
        raise RecordError(
            f"no split {split!r} in {folder}",
            why=f"it has {', '.join(known) or 'no splits at all'}",
            fix=f"did you mean {' or '.join(nearest(split, known))}?" if known else "make the data first",
        )
    promised = int(shards[0].stem.rpartition("-of-")[2])
    if len(shards) != promised:
        raise RecordError(
            f"{folder / table} has {len(shards)} of {promised} shards of split {split!r}",
            why="files were lost or copied in part",
            fix="copy the folder again, or run the same synth command again",
        )
    shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        opened = datasets.load_dataset(
            "parquet", data_files=[str(path) for path in shards], split="train", cache_dir=_cache(folder)
        )
    finally:
        if shown:
            datasets.enable_progress_bars()
    if isinstance(opened.features.get("image"), datasets.Image):
        opened = opened.cast_column("image", datasets.Image(decode=False))
    return opened


def _cache(folder: Path) -> str | None:
    """Where the memory-mapped copy of the tables lives: with the data, so that it goes when the data goes.

    Data that may only be read is copied to where the datasets library keeps its own.
    """
    return str(folder / CACHE) if os.access(folder, os.W_OK) else None


def _chosen(
    records, folder: Path, *, kinds: Sequence[str] | None, tasks: Sequence[str] | None, limit: int | None
) -> np.ndarray:
    """(n,) rows of the records that were asked for."""
    keep = np.ones(len(records), dtype=bool)
    for name, wanted in (("kind", kinds), ("task", tasks)):
        if wanted is None:
            continue
        column = records.data.column(name)
        words = (*KINDS, SEVERAL) if name == "task" else KINDS
        known = sorted({*pc.unique(column).to_pylist(), *words})
        for value in wanted:
            if value not in known:
                raise RecordError(
                    f"no record of {folder} has {name} {value!r}",
                    why=f"there are {', '.join(known)}",
                    fix=f"did you mean {' or '.join(map(repr, nearest(value, known)))}? A task is there in data made "
                    "with it: python -m synth task=[..] (about masks: masks=true)",
                )
        chosen = pa.array(list(wanted), pa.string())
        several = _about_several(records)
        # No task bears the name of a kind, so a name is found in one of the two columns at most.
        of_kind = pc.is_in(records.data.column("kind"), value_set=chosen).to_numpy() & ~several
        found = pc.is_in(column, value_set=chosen).to_numpy() | of_kind
        keep &= found | several if SEVERAL in wanted else found
    rows = np.flatnonzero(keep)
    if limit is not None and limit < len(rows):
        # Random, because neighbours in a folder ask about the same picture; seeded, because numbers must be comparable.
        rows = np.sort(np.random.default_rng(0).permutation(rows)[:limit])
    return rows


def _about_several(records) -> np.ndarray:
    """(all records,) whether each is about several pictures."""
    if MORE not in records.column_names:
        return np.zeros(len(records), dtype=bool)
    lengths = pc.fill_null(pc.list_value_length(records.data.column(MORE)), 0)
    return lengths.to_numpy() > 0


def _further(records, images, folder: Path) -> Further | None:
    """Rows of the second and later pictures; None where no record has any, as in folders of an older synth."""
    if not _about_several(records).any():
        return None
    lists = records.data.column(MORE)
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
    rows = _picture_rows(pc.list_flatten(lists), images, folder)
    nameless = int((rows == NO_PICTURE).sum())
    nameless += int((pc.equal(records.data.column("image_id"), "").to_numpy() & (lengths > 0)).sum())
    if nameless:
        raise RecordError(
            f"{nameless} records of {folder} are about several pictures, one of them without a name",
            why="what stands in more_image_ids is the id of a picture", fix="make the data again",
        )  # fmt: skip
    return Further(np.concatenate([[0], np.cumsum(lengths)]), rows)


def _sizes(images) -> np.ndarray:
    """(pictures, 2) width and height."""
    if images is None:
        return np.zeros((0, 2), dtype=np.int32)
    return np.stack([images.data.column(name).to_numpy() for name in ("width", "height")], axis=1)


def _picture_rows(ids: pa.ChunkedArray, images, folder: Path) -> np.ndarray:
    """(ids,) row of each picture; -1 for an empty id."""
    if images is None:
        found = np.full(len(ids), NO_PICTURE, dtype=np.int64)
    else:
        values = pa.concat_arrays(images.data.column("image_id").chunks)
        found = pc.fill_null(pc.index_in(ids, value_set=values), NO_PICTURE).to_numpy().astype(np.int64)
    lost = (found == NO_PICTURE) & pc.not_equal(pc.fill_null(ids, ""), "").to_numpy()
    if lost.any():
        raise RecordError(
            f"{int(lost.sum())} records of {folder} name a picture that is not there",
            why=f"the first is {ids[int(lost.argmax())].as_py()!r}",
            fix="copy the images/ folder too, or make the data again",
        )
    return found
