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
from synth.record import named_pictures
from synth.sources.fault import PictureFault
from synth.sources.pictures import PictureFolder, upright

Sample = tuple[str, dict[str, bytes], dict]  # key, encoded pictures by extension, content of the JSON
_INDEX = "index.json"  # written last: a folder with it is whole


def to_webdataset(data: Path, out: Path, pictures_root: Path | None = None) -> dict[str, int]:
    """Write every split of a finished dataset folder as ``SPLIT-00000-of-00010.tar`` and return samples per split.

    A sample is a picture, ``KEY.jpg`` (or png, webp), with ``KEY.json``: its id, size, objects and records. Readers
    want all samples of a file alike, so records without a picture are samples of ``SPLIT.text-00000-of-00010.tar``,
    and records about several are in ``SPLIT.several-00000-of-00010.tar``: there a sample is a group of pictures,
    ``KEY.0.jpg``, ``KEY.1.jpg`` .., with ``KEY.json``: ``pictures`` (what is said of each, in order) and ``records``.
    The same folder gives the same bytes. An interrupted run goes on after the last finished file. One group of
    pictures and one shard's records are in memory at a time.

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
        named = manifest["splits"][split].get("pictures_root")
        root = (pictures_root or Path(named)) if named else None
        for target, made in (
            (out / f"{name}.tar", _pictures(data, name, root)),
            (out / f"{split}.text-{rest}.tar", _texts(data, name)),  # with a dot, which no split's name has
            (out / f"{split}.several-{rest}.tar", _groups(data, name, root)),
        ):
            if not target.exists():
                _write_shard(target, made)
            samples[split] = samples.get(split, 0) + (_count(target) if target.exists() else 0)
    with disk_trouble(out):
        dataset_folder.write_whole(out / _INDEX, json.dumps({"samples": samples}, indent=1) + "\n")
    return samples


def _write_shard(target: Path, samples: Iterator[Sample]) -> None:
    """Write the file whole or not at all; of no samples there is no file."""
    aside, some = target.with_name(f"{target.name}.{os.getpid()}.tmp"), False
    try:
        with disk_trouble(target):
            with tarfile.open(aside, "w", format=tarfile.USTAR_FORMAT) as tar:
                for key, images, content in samples:
                    some = True
                    for extension, encoded in images.items():
                        _add(tar, f"{key}.{extension}", encoded)
                    _add(tar, f"{key}.json", json.dumps(content, ensure_ascii=False).encode())
            if some:
                os.replace(aside, target)
    finally:
        aside.unlink(missing_ok=True)


def _records(data: Path, name: str) -> Iterator[dict]:
    for batch in pq.ParquetFile(data / "records" / f"{name}.parquet").iter_batches():
        for record in batch.to_pylist():
            yield {**record, "facts": json.loads(record["facts"])}


def _pictures(data: Path, name: str, root: Path | None) -> Iterator[Sample]:
    """A sample of each picture that records are about alone."""
    by_picture: dict[str, list[dict]] = {}
    for record in _records(data, name):
        if not record["more_image_ids"]:
            by_picture.setdefault(record["image_id"], []).append(record)
    for extension, encoded, row in _images(data, name, root):
        if row["image_id"] in by_picture:
            content = {**row, "records": by_picture.pop(row["image_id"])}
            yield _key(row["image_id"]), {extension: encoded}, content


def _groups(data: Path, name: str, root: Path | None) -> Iterator[Sample]:
    """A sample of each group of pictures that records are about together; those of a group lie near each other."""
    groups: dict[tuple[str, ...], list[dict]] = {}
    for record in _records(data, name):
        if record["more_image_ids"]:
            groups.setdefault(tuple(named_pictures(record)), []).append(record)
    waiting: dict[str, set[tuple[str, ...]]] = {}
    for group in groups:
        for image_id in group:
            waiting.setdefault(image_id, set()).add(group)
    at_hand: dict[str, tuple[str, bytes, dict]] = {}
    for made in _images(data, name, root) if groups else ():
        image_id = made[2]["image_id"]
        if image_id not in waiting:
            continue
        at_hand[image_id] = made
        for group in sorted(group for group in waiting[image_id] if at_hand.keys() >= set(group)):
            found = [at_hand[image_id] for image_id in group]
            images = {f"{k}.{extension}": encoded for k, (extension, encoded, _) in enumerate(found)}
            content = {"pictures": [row for *_, row in found], "records": groups[group]}
            yield f"{_key(group[0])}_{len(group)}", images, content
            for each in group:
                waiting[each].discard(group)
                if not waiting[each]:
                    del at_hand[each]


def _images(data: Path, name: str, root: Path | None) -> Iterator[tuple[str, bytes, dict]]:
    """(extension, encoded picture, what is said of it) of a shard's pictures."""
    for batch in pq.ParquetFile(data / "images" / f"{name}.parquet").iter_batches(batch_size=1):
        for row in batch.to_pylist():
            picture = row.pop("image")
            for obj in row["objects"]:
                obj["attributes"] = json.loads(obj["attributes"])
            row["scene"] = json.loads(row["scene"])
            size = row["width"], row["height"]
            encoded, extension = _stored(picture) if root is None else _linked(root, picture["path"], size)
            yield extension, encoded, row


def _key(id: str) -> str:
    """A key without a dot, where readers would cut it."""
    return id.replace("/", "_").replace(".", "_")


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


def _texts(data: Path, name: str) -> Iterator[Sample]:
    """A sample of each of a shard's records without a picture."""
    for record in _records(data, name):
        if not record["image_id"]:
            yield _key(record["id"]), {}, {"image_id": "", "records": [record]}


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mtime, entry.mode = len(content), 0, 0o644
    tar.addfile(entry, io.BytesIO(content))


def _count(target: Path) -> int:
    with tarfile.open(target) as tar:
        return sum(member.name.endswith(".json") for member in tar)
