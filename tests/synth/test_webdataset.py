"""WebDataset shards: another library reads them, nothing of a record is lost, and an interruption costs one file."""

import hashlib
import io
import json
import tarfile

import pyarrow.parquet as pq
import pytest
from PIL import Image

import synth
from synth.__main__ import main
from synth.errors import OutputExistsError, SettingsError, SourceError
from synth.record import named_pictures
from synth.settings import Settings
from synth.sources.options import FolderOptions
from synth.webdataset import to_webdataset


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    out = tmp_path_factory.mktemp("made") / "data"
    for split in ("train", "val"):
        synth.make(
            Settings(
                out=str(out), split=split, size=7, shard_size=3, task=["find_one", "exists", "numbers", "name_point"]
            )
        )
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
    assert any(row["question_points"] for row in records)


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


def test_linked_pictures_stand_as_their_boxes_lie(tmp_path):
    picture = Image.new("RGB", (40, 20), "red")
    picture.paste("blue", (0, 0, 20, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned: 20 wide, 40 tall, blue on top
    (tmp_path / "coco" / "images").mkdir(parents=True)
    picture.save(tmp_path / "coco" / "images" / "a.jpg", exif=exif)
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 20, "height": 40}],
        "categories": [{"id": 1, "name": "sky"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 20, 20]}],
    }  # fmt: skip
    (tmp_path / "coco" / "instances.json").write_text(json.dumps(content))
    given = {"source": "coco", "folder": FolderOptions(path=str(tmp_path / "coco")), "split": "all", "images": "link"}
    synth.make(Settings(out=str(tmp_path / "data"), task="find_one", **given))
    to_webdataset(tmp_path / "data", tmp_path / "wds")
    with tarfile.open(next((tmp_path / "wds").glob("*.tar"))) as tar:
        (name,) = [name for name in tar.getnames() if not name.endswith(".json")]
        stored = Image.open(io.BytesIO(tar.extractfile(name).read()))
    assert stored.size == (20, 40) and not stored.getexif()
    assert stored.getpixel((10, 5))[2] > 200 and stored.getpixel((10, 35))[0] > 200
    (tmp_path / "coco" / "images").rename(tmp_path / "moved")
    with pytest.raises(SourceError, match="missing picture"):
        to_webdataset(tmp_path / "data", tmp_path / "again")
    command = ["webdataset", str(tmp_path / "data"), "--out", str(tmp_path / "again")]
    assert main([*command, "--pictures-root", str(tmp_path / "moved")]) == 0
    assert digests(tmp_path / "again") == digests(tmp_path / "wds")


def test_a_folder_of_pictures_that_would_not_be_looked_into_is_refused(data, tmp_path):
    with pytest.raises(SettingsError, match="stored"):
        to_webdataset(data, tmp_path / "wds", tmp_path)


def test_no_split_is_called_like_the_texts_of_another(tmp_path):
    for split in ("train", "train_text"):
        synth.make(Settings(out=str(tmp_path / "data"), split=split, size=2, task=["exists", "numbers"]))
    assert to_webdataset(tmp_path / "data", tmp_path / "wds") == {"train": 2 + 4, "train_text": 2 + 4}
    assert len(list((tmp_path / "wds").glob("*.tar"))) == 4


def test_a_group_of_pictures_is_one_sample_with_all_that_is_asked_of_it(tmp_path, monkeypatch):
    import datasets

    out = tmp_path / "data"
    synth.make(Settings(out=str(out), size=7, shard_size=4, task=["find_one", "several"]))
    counts = to_webdataset(out, tmp_path / "wds")
    stored = [row for path in sorted((out / "records").glob("*")) for row in pq.read_table(path).to_pylist()]
    groups = {tuple(named_pictures(row)) for row in stored if row["more_image_ids"]}
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    files = sorted(str(path) for path in (tmp_path / "wds").glob("train.several-*.tar"))
    read = list(datasets.load_dataset("webdataset", data_files=files, split="train", streaming=True))
    assert {tuple(p["image_id"] for p in sample["json"]["pictures"]) for sample in read} == groups and len(read) == 3
    for sample in read:
        for k, said in enumerate(sample["json"]["pictures"]):
            assert sample[f"{k}.jpg"].size == (said["width"], said["height"])
        assert all(
            named_pictures(r) == [p["image_id"] for p in sample["json"]["pictures"]] for r in sample["json"]["records"]
        )
    assert sum(len(sample["json"]["records"]) for sample in read) == sum(bool(row["more_image_ids"]) for row in stored)
    alone = {row["image_id"] for row in stored if not row["more_image_ids"]}
    assert counts == {"train": len(alone) + len(groups)}
