"""The record format: what a row must hold, and that Parquet gives back what went in."""

import dataclasses
import pickle

import numpy as np
import pyarrow.parquet as pq
import pytest

from synth.errors import RecordError, SettingsError, nearest
from synth.record import IMAGES, RECORDS, check_record, make_record, mask_of_runs, run_lengths, table
from synth.tasks import Draft, Step


def row(**changes):
    good = {
        "id": "train/rendered/0/find_one/0", "image_id": "train/rendered/0", "question": "Where is the cat?",
        "steps": [{"text": "Find the cat {box:0}.", "boxes": [[1.0, 2.0, 3.0, 4.0]], "objects": ["cat"], "picture": 0,
                   "masks": []}],
        "answer": "The cat is at {box:0}.", "boxes": [[1.0, 2.0, 3.0, 4.0]], "phrase": "the cat", "task": "find_one",
        "kind": "grounding", "source": "rendered", "split": "train", "licence": "CC0", "seed": "0/train/find_one/0",
        "facts": '{"target": 3}', "language": "en", "engine": "template", "question_boxes": [],
        "question_points": [], "difficulty": 1, "more_image_ids": [], "picture": 0, "masks": [], "question_masks": [],
    }  # fmt: skip
    return {**good, **changes}


def test_a_good_row_passes():
    check_record(row(), 10, 10)


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"answer": "At {box:1}."}, "points at box 1 of 1"),
        (
            {"steps": [{"text": "See {box:0}.", "boxes": [], "objects": [], "picture": 0}]},
            "step 1 points at box 0 of 0",
        ),
        ({"boxes": [[1, 2, 3, 11]]}, "outside"),
        ({"boxes": [[-1, 2, 3, 4]]}, "outside"),
        ({"boxes": [[3, 2, 1, 4]]}, "empty"),
        ({"boxes": [[1, 2, 3]]}, "four finite"),
        ({"boxes": [[1, 2, 3, float("nan")]]}, "four finite"),
        ({"question": "What is at {box:0}?"}, "question points at box 0 of 0"),
        ({"question_boxes": [[1, 2, 3, 4]]}, "never points at its box 0"),
        ({"question": "What is at {box:0}?", "question_boxes": [[1, 2, 3, 11]]}, "question has a box that is"),
        (
            {
                "question": "At {box:0}?",
                "question_boxes": [[1, 2, 3, 4]],
                "boxes": [],
                "answer": "A cat.",
                "kind": "understanding",
            },
            "about understanding",
        ),
        ({"question": "What is at {point:0}?"}, "has {point:0}, but 0 points"),
        ({"question_points": [[1, 2]]}, "point 0 is never shown"),
        ({"question": "At {point:0}?", "question_points": [[1, 2], [3, 4]]}, "point 1 is never shown"),
        ({"question": "At {point:0}?", "question_points": [[1, 11]]}, "point outside"),
        ({"question": "At {point:0}?", "question_points": [[-0.5, 2]]}, "point outside"),
        ({"question": "At {point:0}?", "question_points": [[1, float("inf")]]}, "two finite"),
        ({"question": "At {point:0}?", "question_points": [[1, 2, 3, 4]]}, "two finite"),
        (
            {
                "question": "{point:0}?",
                "question_points": [[1, 2]],
                "image_id": "",
                "boxes": [],
                "steps": [],
                "answer": "A",
            },
            "question has points",
        ),
        ({"answer": "It is at {point:0}."}, "answer has a point"),
        ({"steps": [{"text": "See {point:0}.", "boxes": [], "objects": [], "picture": 0}]}, "step 1 has a point"),
        ({"answer": "It is {mask:1}."}, "answer points at box 1 of 1"),
        ({"steps": [{"text": "{mask:0}", "boxes": [], "objects": [], "picture": 0}]}, "step 1 points at box 0 of 0"),
        ({"question": "{mask:0} {box:0}?", "question_boxes": [[1, 2, 3, 4]]}, "the question has a mask"),
        ({"answer": "{mask:0}", "boxes": [], "kind": "understanding"}, "answer points at box 0 of 0"),
        ({"question": " "}, "empty"),
        ({"answer": ""}, "empty"),
        ({"kind": "understanding"}, "about understanding"),
        ({"kind": "gronding"}, "gronding"),
        ({"image_id": ""}, "no picture"),
        ({"picture": 1}, "answer lies in picture 1 of 1"),
        ({"more_image_ids": ["train/rendered/1"]}, "about 1 different ones"),
    ],
)
def test_a_broken_row_is_refused_and_names_the_task(changes, said):
    with pytest.raises(RecordError) as caught:
        check_record(row(**changes), 10, 10)
    assert said in str(caught.value) and "find_one" in str(caught.value)


def test_boxes_are_held_against_the_picture_they_lie_in():
    second = {"more_image_ids": ["train/rendered/1"], "picture": 1, "boxes": [[1.0, 2.0, 30.0, 40.0]]}
    check_record(row(**second), 10, 10, (50, 50))
    for broken, said in (
        ({"picture": 0}, "outside the 10 x 10 picture"),
        ({"picture": 2}, "picture 2 of 2"),
        ({"steps": [{**row()["steps"][0], "boxes": [[1, 2, 30, 40]]}]}, "step 1 has a box that is"),
        ({"question": "See {box:0}.", "question_boxes": [[1, 2, 30, 40]]}, "question has a box that is"),
        ({"more_image_ids": ["train/rendered/0"]}, "different ones"),
        ({"more_image_ids": []}, "different ones"),
    ):
        with pytest.raises(RecordError, match=said):
            check_record(row(**{**second, **broken}), 10, 10, (50, 50))


def test_a_question_may_show_boxes_of_its_own():
    check_record(row(question="What is at {box:0}?", question_boxes=[[1, 2, 3, 4]], boxes=[], answer="A cat."), 10, 10)


def test_a_table_is_what_pyarrow_itself_would_make_of_the_rows():
    import pyarrow as pa

    some = [row(), row(steps=[], boxes=[], question_boxes=[[1, 2, 3, 4], [5, 6, 7, 8.5]]), row(phrase=None)]
    picture = {
        "image_id": "a", "image": {"bytes": None, "path": "a.jpg"}, "width": 4, "height": 2, "scene": "{}",
        "objects": [{"id": 1, "name": "cat", "kind": "thing", "box": [1.0, 2.0, 3.0, 4.0], "attributes": "{}",
                     "traits": ["wet"], "depth": None, "confidence": 0.5, "mask": [1, 2, 5]}],
    }  # fmt: skip
    for rows, schema in ((some, RECORDS), ([picture, {**picture, "objects": []}], IMAGES), ([], RECORDS)):
        assert table(rows, schema).equals(pa.Table.from_pylist(rows, schema=schema), check_metadata=True)
        table(rows, schema).validate(full=True)


def test_a_question_may_show_points():
    shown = {"question": "{point:1} or {point:0}?", "question_points": [[0, 2.5], [10, 10]]}
    check_record(row(**shown), 10, 10)
    with pytest.raises(RecordError, match="answer has a point"):  # also where it is the question's very text
        check_record(row(**shown, answer=shown["question"], boxes=[], steps=[]), 10, 10)


def test_a_mask_comes_back_from_its_run_lengths():
    for mask in (np.eye(3, 5, dtype=bool), np.ones((2, 3), bool), np.zeros((2, 3), bool)):
        assert (mask_of_runs(np.array(run_lengths(mask)), *mask.shape[::-1]) == mask).all()
    with pytest.raises(ValueError):
        mask_of_runs(np.array([3, 2]), 2, 2)


def test_parquet_gives_back_every_field_of_a_record(tmp_path):
    import pyarrow as pa

    rows = [row(), row(steps=[], boxes=[], answer="There is no cat.", image_id="", phrase="")]
    pq.write_table(pa.Table.from_pylist(rows, schema=RECORDS), tmp_path / "x.parquet")
    assert pq.read_table(tmp_path / "x.parquet").to_pylist() == rows


def test_a_record_has_every_column_of_the_format_and_no_other():
    @dataclasses.dataclass
    class Picture:
        source: str = "rendered"
        index: int = 7
        licence: str = "CC0"

    step = Step(text="s", boxes=[(1, 2, 3, 4)], objects=["x"])
    draft = Draft(
        question="q",
        answer="a",
        steps=[step],
        boxes=[(1, 2, 3, 4)],
        question_boxes=[(0, 0, 1, 1)],
        question_points=[(3, 4)],
        difficulty=4,
    )
    where = {"image_id": "i", "scene": Picture(), "split": "train", "language": "en", "seed": "s", "k": 2}
    made = make_record(draft, facts={"target": 3}, task="t", kind="grounding", **where)
    assert list(made) == RECORDS.names
    assert made["id"] == "train/rendered/7/t/2"
    assert made["question_boxes"] == [[0.0, 0.0, 1.0, 1.0]] and made["difficulty"] == 4
    assert made["question_points"] == [[3.0, 4.0]]
    assert made["boxes"] == [[1.0, 2.0, 3.0, 4.0]] == made["steps"][0]["boxes"]


def test_the_image_table_tells_datasets_to_decode_pictures():
    import datasets

    features = datasets.Features.from_arrow_schema(IMAGES)
    assert isinstance(features["image"], datasets.Image)


def test_errors_show_what_why_and_fix_and_survive_the_way_out_of_a_worker():
    error = pickle.loads(pickle.dumps(SettingsError("what", why="because", fix="do this")))
    assert type(error) is SettingsError and isinstance(error, ValueError)
    assert str(error) == "what\n  why: because\n  fix: do this"


def test_nearest_names_come_first_and_all_names_when_none_is_alike():
    assert nearest("find_oen", ["find_one", "count", "where"]) == "find_one"
    assert nearest("zzz", ["b", "a"]) == "a, b"
