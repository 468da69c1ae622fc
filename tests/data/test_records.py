"""Reading a folder of records: what is there, shared pictures, and every way a folder can be bad."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from pycocotools import mask as coco_masks

from lynx_moe.data import load_records
from lynx_moe.errors import RecordError
from tests.data.written import picture, record, small_folder, write_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return small_folder(tmp_path_factory.mktemp("records"))


def test_every_field_comes_back_as_written(folder):
    one = load_records(folder, "train")[1]
    assert (one.id, one.task, one.kind, one.size) == ("train/test/0/relation/0", "relation", "grounding", (48, 32))
    assert one.steps[0].text == "Find the cat at {box:0}."
    assert one.steps[0].boxes == ((30.0, 10.0, 40.0, 30.0),) and one.steps[0].objects == ("cat",)
    assert one.boxes == ((1.0, 2.0, 11.0, 22.0),)


def test_each_record_gets_the_picture_it_names(folder):
    records = load_records(folder, "train")
    colours = {r.image_id: np.asarray(r.image())[0, -1].tolist() for r in records if r.has_image}
    assert colours == {"a": [120, 80, 40], "b": [10, 200, 90], "c": [0, 0, 255]}


def test_records_of_a_folder_without_masks_have_none_for_each_box(folder):
    one, several = load_records(folder, "train")[1], load_records(folder, "train")[3]
    assert one.masks == (None,) == one.steps[0].masks and several.masks == (None, None) and one.question_masks == ()


def test_masks_lie_in_the_pictures_of_their_boxes_and_are_decoded_when_asked_for(tmp_path):
    def mask(height, width, y1, y2, x1, x2):
        true = np.zeros((height, width), np.uint8, order="F")
        true[y1:y2, x1:x2] = 1
        coded = coco_masks.encode(true)
        return {"size": [height, width], "counts": coded["counts"].decode()}, true.astype(bool)

    (first, first_true), (second, second_true) = mask(32, 48, 4, 20, 4, 20), mask(40, 24, 1, 6, 4, 20)
    broken = {"size": [32, 48], "counts": "never a mask"}
    step = {
        "text": "See {box:0} {box:1}.",
        "boxes": [[4.0, 4.0, 20.0, 20.0]] * 2,
        "picture": 0,
        "masks": [None, broken],
    }
    row = record(
        0, image_id="a", more_image_ids=["b"], picture=1, boxes=[[4.0, 1.0, 20.0, 6.0]], masks=[second],
        question_boxes=[[4.0, 4.0, 20.0, 20.0]], question_masks=[first], steps=[step],
    )  # fmt: skip
    write_folder(tmp_path, [([row], [picture("a", (48, 32)), picture("b", (24, 40))])])
    read = load_records(tmp_path, "train")[0]
    assert np.array_equal(read.masks[0].array(), second_true)
    assert np.array_equal(read.question_masks[0].array(), first_true)
    assert read.steps[0].masks[0] is None and read == load_records(tmp_path, "train")[0]
    with pytest.raises(RecordError, match="cannot be decoded"):
        read.steps[0].masks[1].array()


@pytest.mark.parametrize(
    "changes",
    [
        {"masks": [None, None]},
        {"masks": [{"size": [48, 32], "counts": "P80"}]},
        {"masks": [{"size": [32], "counts": "P80"}]},
        {"masks": [{"size": [32, 48], "counts": None}]},
        {"question_masks": [None]},
        {"image_id": "", "masks": [{"size": [32, 48], "counts": "P80"}]},
    ],
)
def test_masks_that_are_not_those_of_the_boxes_are_told(tmp_path, changes):
    row = record(0, **{"image_id": "a", "boxes": [[4.0, 4.0, 20.0, 20.0]], "picture": 0, **changes})
    write_folder(tmp_path, [([row], [picture("a", (48, 32))])])
    with pytest.raises(RecordError, match="no mask|not those of its boxes"):
        load_records(tmp_path, "train")[0]


def test_records_of_one_picture_are_grouped_and_text_stands_alone(folder):
    assert load_records(folder, "train").by_picture() == [[0, 1, 2], [3], [4, 6], [5]]


def test_text_only_record_has_no_picture(folder):
    text = load_records(folder, "train")[5]
    assert text.size is None and not text.has_image
    with pytest.raises(RecordError, match="text only"):
        text.image()


def test_kinds_and_tasks_filter(folder):
    assert load_records(folder, "train", kinds=["understanding"]).column("task") == ["count", "count", "describe"]
    assert load_records(folder, "train", tasks=["find_all", "absent"]).column("task") == ["find_all", "absent"]
    assert len(load_records(folder, "train", kinds=["understanding"], tasks=["find_one"])) == 0
    both = load_records(folder, "train", tasks=["find_all", "understanding"])
    assert set(both.column("kind")) == {"grounding", "understanding"}
    asked = zip(both.column("task"), both.column("kind"), strict=True)
    assert {task for task, kind in asked if kind == "grounding"} == {"find_all"}


def test_limit_is_the_same_subset_every_time_and_not_just_the_first_rows(tmp_path):
    folder = write_folder(tmp_path, [([record(k, id=str(k)) for k in range(100)], [])])
    ids = load_records(folder, "train", limit=10).column("id")
    assert ids == load_records(folder, "train", limit=10).column("id")
    assert len(set(ids)) == 10 and ids == sorted(ids, key=int) and max(map(int, ids)) > 20


def test_selected_records_keep_their_pictures(folder):
    chosen = load_records(folder, "train").select([4, 3])
    assert [r.image_id for r in chosen] == ["c", "b"]
    assert [chosen.picture(0), chosen.picture(1)] == [2, 1]
    assert chosen[1].image().size == (24, 40)


def test_counts_say_how_many_of_each_task(folder):
    assert load_records(folder, "train").counts()["count"] == 2


def test_columns_with_picture_features_of_datasets_are_read_too(tmp_path):
    text, number = ({"dtype": kind, "_type": "Value"} for kind in ("string", "int64"))
    features = {"image_id": text, "image": {"_type": "Image"}, "width": number, "height": number}
    write_folder(tmp_path, [([record(0, image_id="a")], [picture("a", (8, 6))])])
    file = tmp_path / "images" / "train-00000-of-00001.parquet"
    table = pq.read_table(file).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, file)
    assert load_records(tmp_path, "train")[0].image().size == (8, 6)


def test_remade_data_is_read_anew_and_not_from_the_copy(tmp_path):
    write_folder(tmp_path, [([record(0, question="old")], [])])
    assert load_records(tmp_path, "train")[0].question == "old"
    write_folder(tmp_path, [([record(0, question="new")], [])])
    assert load_records(tmp_path, "train")[0].question == "new"


def test_the_memory_mapped_copy_lives_with_the_data(tmp_path):
    load_records(small_folder(tmp_path), "train")
    assert any((tmp_path / ".cache").rglob("*.arrow"))


def test_unfinished_folder_is_refused(tmp_path):
    write_folder(tmp_path, [([record(0)], [])], finished=False)
    with pytest.raises(RecordError, match="unfinished"):
        load_records(tmp_path, "train")


def test_folder_without_manifest_is_refused(tmp_path):
    with pytest.raises(RecordError, match="no finished records"):
        load_records(tmp_path / "nowhere", "train")


def test_broken_manifest_is_refused(tmp_path):
    write_folder(tmp_path, [([record(0)], [])])
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(RecordError, match="not JSON"):
        load_records(tmp_path, "train")


def test_unknown_split_task_and_kind_offer_what_there_is(folder):
    with pytest.raises(RecordError, match="did you mean train"):
        load_records(folder, "trian")
    with pytest.raises(RecordError, match="did you mean 'find_all'"):
        load_records(folder, "train", tasks=["find_al"])
    with pytest.raises(RecordError, match="grounding, understanding"):
        load_records(folder, "train", kinds=["pointing"])


def test_lost_shard_is_noticed(tmp_path):
    small_folder(tmp_path)
    (tmp_path / "records" / "train-00001-of-00002.parquet").unlink()
    with pytest.raises(RecordError, match="1 of 2 shards"):
        load_records(tmp_path, "train")


def test_lost_picture_is_noticed(tmp_path):
    write_folder(tmp_path, [([record(0, image_id="gone")], [picture("a", (8, 8))])])
    with pytest.raises(RecordError, match="gone"):
        load_records(tmp_path, "train")


def test_lost_column_is_named(tmp_path):
    write_folder(tmp_path, [([record(0)], [])])
    file = tmp_path / "records" / "train-00000-of-00001.parquet"
    pq.write_table(pq.read_table(file).drop(["steps"]), file)
    with pytest.raises(RecordError, match="no column 'steps'"):
        load_records(tmp_path, "train")


def test_undecodable_picture_names_its_record(tmp_path):
    bad = picture("a", (8, 8)) | {"image": {"bytes": b"not a picture", "path": "a.png"}}
    records = load_records(write_folder(tmp_path, [([record(0, image_id="a")], [bad])]), "train")
    with pytest.raises(RecordError, match="train/test/0"):
        records[0].image()


def test_index_beyond_the_end_stops_iteration(folder):
    records = load_records(folder, "train")
    assert len(list(records)) == len(records) == 7
    with pytest.raises(IndexError):
        records[7]
