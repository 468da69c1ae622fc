"""Reading what others wrote: bad rows are counted, bad files refused, and no path leaves the folder."""

import json
import os
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lynx_moe.errors import RecordError
from lynx_moe.evaluation.protocols.files import Files
from tests.evaluation.protocols.understanding import picture_bytes, put_json, put_lines, put_pictures, put_table

ROWS = [{"id": "1", "text": "a, b"}, {"id": "2", "text": 'say "no"'}, {"id": "3", "text": "two\nlines"}]


@pytest.fixture
def files(tmp_path):
    return Files(tmp_path, Counter())


def put_parquet(path, rows):
    pq.write_table(pa.Table.from_pylist(rows), path)


WRITERS = {
    "x.jsonl": put_lines,
    "x.json": put_json,
    "lines.json": put_lines,
    "x.csv": lambda path, rows: put_table(path, list(rows[0]), [list(row.values()) for row in rows]),
    "x.tsv": lambda path, rows: put_table(path, list(rows[0]), [list(row.values()) for row in rows], tab="\t"),
    "x.parquet": put_parquet,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_rows(files, name):
    WRITERS[name](files.root / name, ROWS)
    assert list(files.rows(files.root / name)) == ROWS and not files.faults


def test_a_list_inside_of_a_document_is_read_row_by_row(files):
    put_json(files.root / "x.json", {"info": {"n": 3}, "data": ROWS})
    assert list(files.rows(files.root / "x.json", "data.item")) == ROWS


def test_rows_that_are_none_are_counted_and_the_rest_is_read(files):
    put_lines(files.root / "x.jsonl", [ROWS[0], "{broken", "[1]", "[" * 100_000, ROWS[1], ""])
    assert list(files.rows(files.root / "x.jsonl")) == ROWS[:2]
    assert files.faults == {"unreadable row": 3}


def test_table_rows_of_another_width_are_counted(files):
    (files.root / "x.csv").write_text("id,text\n1,a\n2,b,c\n3,d\n")
    assert [row["id"] for row in files.rows(files.root / "x.csv")] == ["1", "3"]
    assert files.faults == {"unreadable row": 1}


def test_cells_stay_text_whatever_they_look_like(files):
    (files.root / "x.csv").write_text("﻿id,a\n01,nan\n1e3,NULL\n", encoding="utf-8")
    assert list(files.rows(files.root / "x.csv")) == [{"id": "01", "a": "nan"}, {"id": "1e3", "a": "NULL"}]


@pytest.mark.parametrize(
    ("name", "content"), [("x.json", b'[{"a": 1}, {'), ("x.json", b"\xff\xfe"), ("x.parquet", b"PAR1")]
)
def test_a_broken_file_is_refused_by_name(files, name, content):
    (files.root / name).write_bytes(content)
    with pytest.raises(RecordError, match=name):
        list(files.rows(files.root / name))


def test_a_missing_file_is_refused_with_all_names_it_may_have(files):
    with pytest.raises(RecordError, match="a.json or data/a.json"):
        files.find("a.json", "data/a.json")


def test_a_document_that_is_no_json_or_nested_without_end_is_refused(files):
    for content in ("{", "[" * 100_000):
        (files.root / "x.json").write_text(content)
        with pytest.raises(RecordError, match="x.json"):
            files.document(files.root / "x.json")


def test_values_of_another_kind_are_counted_by_name(files):
    assert files.take({"n": 1, "s": "x"}, n=int, s=str) == (1, "x")
    for row in ({"n": 1}, {"n": 1, "s": 2}, {"n": "1", "s": "x"}, {"n": True, "s": "x"}):
        assert files.take(row, n=int, s=str) is None
    assert files.faults == {"row without a usable s": 2, "row without a usable n": 2}


def test_pictures_are_opened_when_asked_for_and_from_the_first_place_that_has_one(files, tmp_path):
    put_pictures(tmp_path, "b/1.png")
    load = files.picture("a/1.png", "b/1.png")
    assert load().size == (6, 4) and load().mode == "RGB"
    assert files.sized_picture("b/1.png")[1] == (6, 4)
    (tmp_path / "b/1.png").write_bytes(picture_bytes()[:40])
    with pytest.raises(RecordError, match="1.png"):
        load()


@pytest.mark.parametrize(
    "name", ["../secret.png", "{root}/../secret.png", "a/../../secret.png", "link.png", "dir/secret.png"]
)
def test_no_name_leads_out_of_the_folder(tmp_path, name):
    root = tmp_path / "bench"
    root.mkdir()
    put_pictures(tmp_path, "secret.png")
    os.symlink(tmp_path / "secret.png", root / "link.png")
    os.symlink(tmp_path, root / "dir")
    files = Files(root, Counter())
    assert files.picture(name.replace("{root}", str(root))) is None
    assert files.faults == {"path leaves the folder": 1}


def test_missing_and_unreadable_pictures_are_counted(files):
    (files.root / "text.png").write_text("no picture")
    assert files.picture("none.png") is None and files.sized_picture("text.png") is None
    assert files.held_picture(None, "x") is None and files.held_picture(b"no picture", "x") is None
    assert files.faults == {"missing picture": 2, "unreadable picture": 2}
    assert files.held_picture(picture_bytes((3, 2)), "x")[1] == (3, 2)


def test_json_lines_and_lists_are_told_by_how_they_begin(files):
    (files.root / "x.json").write_text("  \n " + json.dumps(ROWS))
    assert list(files.rows(files.root / "x.json")) == ROWS
