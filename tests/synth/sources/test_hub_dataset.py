"""Object detection in the layout of the datasets library, saved to disk or as Parquet files."""

import io

import datasets
import pyarrow.parquet as pq
import pytest
from PIL import Image

from synth.errors import SettingsError, SourceError
from synth.settings import Settings
from synth.sources import PictureFault, open_source
from synth.sources.hub_dataset import TablePictures
from synth.sources.options import FolderOptions
from tests.synth.sources.opened import faults, listed, opened, scenes


def picture(size=(64, 48)):
    buffer = io.BytesIO()
    Image.new("RGB", size, "green").save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


ROWS = [
    {"image_id": 7, "image": picture(), "width": 64, "height": 48,
     "objects": {"id": [1, 2], "bbox": [[1.0, 2.0, 10.0, 10.0], [30.0, 2.0, 9.0, 9.0]], "category": [0, 1]}},
    {"image_id": 8, "image": picture(), "width": 64, "height": 48,
     "objects": {"id": [3, 4], "bbox": [[1.0, 2.0, 0.0, 10.0], [1.0, 2.0, 3.0, 4.0]], "category": [0, 1]}},
]  # fmt: skip


def table(rows=ROWS, label=None, **more):
    label = label or datasets.ClassLabel(names=["Coverall", "Mask"])
    objects = {"id": datasets.Value("int64"), "bbox": datasets.List(datasets.List(datasets.Value("float32"), 4)),
               "category": datasets.List(label)}  # fmt: skip
    objects["id"] = datasets.List(objects["id"])
    features = {"image_id": datasets.Value("int64"), "image": datasets.Image(), "width": datasets.Value("int32"),
                "height": datasets.Value("int32"), "objects": objects, **more}  # fmt: skip
    return datasets.Dataset.from_list(rows, features=datasets.Features(features))


@pytest.fixture
def folder(tmp_path):
    datasets.DatasetDict({"train": table(), "validation": table(ROWS[:1])}).save_to_disk(tmp_path / "cppe")
    return tmp_path / "cppe"


def test_rows_become_scenes_by_split(folder):
    found = scenes("auto", folder, "train")
    first = found["train/000000000"]
    assert first.source == "datasets" and listed(first) == [("Coverall", (1, 2, 11, 12)), ("Mask", (30, 2, 39, 11))]
    assert first.vocabulary == ("Coverall", "Mask")
    assert first.image_bytes() == (ROWS[0]["image"]["bytes"], "png")
    assert listed(found["train/000000001"]) == [("Mask", (1, 2, 4, 6))] and found["train/000000001"].vocabulary == (
        "Mask",
    )
    assert set(scenes("datasets", folder, "val")) == {"validation/000000000"}
    assert faults("datasets", folder) == [("zero area", "train/000000001: object 1")]


def test_names_as_words_corners_and_sizes_from_the_picture(tmp_path):
    rows = [{**ROWS[0], "width": None, "objects": {**ROWS[0]["objects"], "category": ["cat", "dog"]}}]
    table(rows, datasets.Value("string")).save_to_disk(tmp_path / "one")
    options = FolderOptions(path=str(tmp_path / "one"), boxes="xyxy")
    (scene,) = scenes("datasets", options).values()
    assert (scene.width, scene.height) == (64, 48) and listed(scene) == [("cat", (1, 2, 10, 10))]
    assert faults("datasets", options) == [("zero area", "train/000000000: object 2")]


def test_parquet_files_are_read_as_they_lie(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "p" / "data").mkdir(parents=True)
    table().to_parquet(tmp_path / "p" / "data" / "train-00000-of-00001.parquet")
    found = scenes("datasets", tmp_path / "p", "train")
    assert listed(found["train/000000000"])[0] == ("Coverall", (1, 2, 11, 12))
    assert found["train/000000000"].image_bytes()[0] == ROWS[0]["image"]["bytes"]


def test_a_table_may_name_files_of_its_own_folder_only(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    for place in ("in/a.png", "b.png"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_bytes(picture()["bytes"])
    rows = [{**ROWS[0], "image": {"bytes": None, "path": str(tmp_path / place)}} for place in ("in/a.png", "b.png")]
    made = datasets.Dataset.from_list(rows, features=table().features).with_format("arrow")
    pq.write_table(made[:].cast(table().features.arrow_schema), tmp_path / "in" / "train.parquet")
    store = TablePictures(str(tmp_path / "in"))
    assert store.read("train/000000000") == picture()["bytes"]
    with pytest.raises(PictureFault, match="leaves"):
        store.read("train/000000001")


def test_pictures_in_tables_cannot_be_linked_and_other_tables_raise(folder, tmp_path):
    with pytest.raises(SettingsError, match="images=link"):
        options = FolderOptions(path=str(folder))
        open_source(Settings(source="datasets", split="all", images="link", folder=options), tmp_path / "work")
    with pytest.raises(SourceError, match="cannot be read as a dataset"):
        opened("datasets", FolderOptions(path=str(tmp_path / "nowhere")))
    datasets.Dataset.from_dict({"text": ["a"]}).save_to_disk(tmp_path / "text")
    with pytest.raises(SourceError, match="object detection"):
        opened("datasets", tmp_path / "text")
