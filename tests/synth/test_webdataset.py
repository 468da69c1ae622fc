"""WebDataset shards: another library reads them, nothing of a record is lost, and an interruption costs one file."""

import hashlib
import io
import json
import tarfile

import pyarrow.parquet as pq
import pytest
from PIL import Image

import synth
from synth.errors import OutputExistsError, SourceError
from synth.settings import Settings
from synth.webdataset import to_webdataset


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    out = tmp_path_factory.mktemp("made") / "data"
    for split in ("train", "val"):
        synth.make(Settings(out=str(out), split=split, size=7, shard_size=3, task=["find_one", "exists", "numbers"]))
    return out


def digests(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*"))}


def test_datasets_streams_the_shards(data, tmp_path, monkeypatch):
    import datasets

    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    to_webdataset(data, tmp_path / "wds")
    files = sorted(str(path) for path in (tmp_path / "wds").glob("train-*.tar"))
    read = datasets.load_dataset("webdataset", data_files=files, split="train", streaming=True)
    first = next(iter(read))
    assert first["jpg"].size == (first["json"]["width"], first["json"]["height"])
    assert first["__key__"] == first["json"]["image_id"].replace("/", "_")


def test_every_record_and_picture_is_there_once(data, tmp_path):
    assert to_webdataset(data, tmp_path / "wds") == {"train": 7 + 14, "val": 7 + 14}  # two text records a picture
    records, pictures = [], {}
    for path in sorted((tmp_path / "wds").glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                content = tar.extractfile(member).read()
                if member.name.endswith(".json"):
                    records += json.loads(content)["records"]
                else:
                    pictures[member.name] = Image.open(io.BytesIO(content)).size
    stored = [row for path in sorted((data / "records").glob("*")) for row in pq.read_table(path).to_pylist()]
    by_id = {row["id"]: {**row, "facts": json.loads(row["facts"])} for row in stored}
    assert len(records) == len(stored) and {row["id"]: row for row in records} == by_id
    assert len(pictures) == 14


def test_an_interruption_costs_one_file_and_ends_in_the_same_bytes(data, tmp_path):
    to_webdataset(data, tmp_path / "whole")
    to_webdataset(data, tmp_path / "cut")
    lost = sorted((tmp_path / "cut").glob("*.tar"))[1]
    kept = sorted((tmp_path / "cut").glob("*.tar"))[0]
    lost.unlink()
    (tmp_path / "cut" / "index.json").unlink()
    before = kept.stat().st_mtime_ns
    to_webdataset(data, tmp_path / "cut")
    assert digests(tmp_path / "cut") == digests(tmp_path / "whole") and kept.stat().st_mtime_ns == before


def test_other_folders_are_refused(data, tmp_path):
    with pytest.raises(SourceError, match="finished"):
        to_webdataset(tmp_path / "nothing", tmp_path / "out")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious.txt").write_text("x")
    with pytest.raises(OutputExistsError):
        to_webdataset(data, tmp_path / "out")
