"""A dataset folder as WebDataset: tar shards for trainers that stream, one sample a picture with all of its records."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pyarrow.parquet as pq

from synth import folder as dataset_folder
from synth.errors import OutputExistsError, SettingsError, SourceError, disk_trouble
from synth.sources.fault import PictureFault
from synth.sources.pictures import PictureFolder, upright

_INDEX = "index.json"  # written last: a folder with it is whole


def to_webdataset(data: Path, out: Path, pictures_root: Path | None = None) -> dict[str, int]:
    """Write every split of a finished dataset folder as ``SPLIT-00000-of-00010.tar`` and return samples per split.

    A sample is a picture, ``KEY.jpg`` (or png, webp), with ``KEY.json``: its id, size, objects and records. Records
    without a picture are samples of ``SPLIT.text-00000-of-00010.tar``: readers want all samples of a file alike. The
    same folder gives the same bytes. An interrupted run goes on after the last finished file. One picture and one
    shard's records are in memory at a time.

    Args:
        pictures_root: folder of the pictures, where the data only names them (``images=link``) and they have moved;
            None takes the folder that the manifest names.

    Raises:
        SettingsError: ``pictures_root`` is given, and all pictures are stored.
        SourceError: ``data`` is no finished dataset. OutputExistsError: ``out`` holds another dataset.
        OutputError: disk trouble.
    """
    manifest = dataset_folder.finished(data)
    if pictures_root is not None and not any("pictures_root" in entry for entry in manifest["splits"].values()):
        raise SettingsError(
            f"the pictures of {data} are stored in it", why="a folder of pictures would not be looked into",
            fix="leave --pictures-root out",
        )  # fmt: skip
    origin = {"made_from": manifest["files"]}
    stamp = out / "origin.json"
    if out.exists() and any(out.iterdir()) and (not stamp.exists() or json.loads(stamp.read_text()) != origin):
        raise OutputExistsError(
            f"{out} holds something else", why="finished files are never replaced", fix="choose another folder"
        )
    with disk_trouble(out):
        out.mkdir(parents=True, exist_ok=True)
        dataset_folder.write_whole(stamp, json.dumps(origin))
    samples: dict[str, int] = {}
    for records in sorted(name for name in manifest["files"] if name.startswith("records/")):
        name = Path(records).stem
        split, _, rest = name.partition("-")
        root = manifest["splits"][split].get("pictures_root")
        for target, made in (
            (out / f"{name}.tar", _pictures(data, name, (pictures_root or Path(root)) if root else None)),
            (out / f"{split}.text-{rest}.tar", _texts(data, name)),  # with a dot, which no split's name has
        ):
            if not target.exists():
                _write_shard(target, made)
            samples[split] = samples.get(split, 0) + (_count(target) if target.exists() else 0)
    with disk_trouble(out):
        dataset_folder.write_whole(out / _INDEX, json.dumps({"samples": samples}, indent=1) + "\n")
    return samples


def _write_shard(target: Path, samples: Iterator[tuple[str, tuple[bytes, str] | None, dict]]) -> None:
    """Write the file whole or not at all; of no samples there is no file."""
    aside, some = target.with_name(f"{target.name}.{os.getpid()}.tmp"), False
    try:
        with disk_trouble(target):
            with tarfile.open(aside, "w", format=tarfile.USTAR_FORMAT) as tar:
                for key, image, content in samples:
                    some = True
                    if image is not None:
                        _add(tar, f"{key}.{image[1]}", image[0])
                    _add(tar, f"{key}.json", json.dumps(content, ensure_ascii=False).encode())
            if some:
                os.replace(aside, target)
    finally:
        aside.unlink(missing_ok=True)


def _records(data: Path, name: str) -> Iterator[dict]:
    for batch in pq.ParquetFile(data / "records" / f"{name}.parquet").iter_batches():
        for record in batch.to_pylist():
            yield {**record, "facts": json.loads(record["facts"])}


def _pictures(data: Path, name: str, root: Path | None) -> Iterator[tuple[str, tuple[bytes, str], dict]]:
    """(key, picture, content) of a shard's pictures; keys have no dot, or readers would cut them there."""
    by_picture: dict[str, list[dict]] = {}
    for record in _records(data, name):
        by_picture.setdefault(record["image_id"], []).append(record)
    for batch in pq.ParquetFile(data / "images" / f"{name}.parquet").iter_batches(batch_size=1):
        for row in batch.to_pylist():
            picture, image_id = row.pop("image"), row["image_id"]
            for obj in row["objects"]:
                obj["attributes"] = json.loads(obj["attributes"])
            row["scene"] = json.loads(row["scene"])
            size = row["width"], row["height"]
            encoded, extension = _stored(picture) if root is None else _linked(root, picture["path"], size)
            key = image_id.replace("/", "_").replace(".", "_")
            yield key, (encoded, extension), {**row, "records": by_picture.pop(image_id)}


def _stored(picture: dict) -> tuple[bytes, str]:
    return picture["bytes"], PurePosixPath(picture["path"]).suffix[1:]


def _linked(root: Path, file: str, size: tuple[int, int]) -> tuple[bytes, str]:
    """The picture as synth would have stored it: in the frame of its boxes, which readers of tars do not look up."""
    try:
        return upright(PictureFolder(root).read(file), size, file)
    except PictureFault as problem:
        raise SourceError(
            f"{root / file}: {problem.fault.reason}",
            why="the data names its pictures instead of holding them",
            fix="put the picture back, name the folder with --pictures-root, or make the data again with images=embed",
        ) from None


def _texts(data: Path, name: str) -> Iterator[tuple[str, None, dict]]:
    """(key, nothing, content) of a shard's records without a picture."""
    for record in _records(data, name):
        if not record["image_id"]:
            yield record["id"].replace("/", "_").replace(".", "_"), None, {"image_id": "", "records": [record]}


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mtime, entry.mode = len(content), 0, 0o644
    tar.addfile(entry, io.BytesIO(content))


def _count(target: Path) -> int:
    with tarfile.open(target) as tar:
        return sum(member.name.endswith(".json") for member in tar)
