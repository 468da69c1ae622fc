"""The report: boxes sit on things, the page holds what the numbers say, and nothing in the data can break it."""

import copy
import html
import io
import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import synth.__main__ as cli
from synth.errors import SourceError
from synth.quality.numbers import warnings
from synth.quality.report import report
from synth.quality.samples import Sample
from synth.quality.sheets import SIDE, contact_sheet, draw_boxes, show
from synth.quality.tables import Encoded
from synth.tasks import Draft

from .conftest import HandMade, png, stepwise

RED = (255, 0, 0)
HOSTILE = '<script>alert("x")</script> & $\\frac{ {{ 7 * 7 }} \x07'


def is_red(pixel):
    return pixel[0] > 200 and pixel[1] < 60 and pixel[2] < 60


def hostile(scene, rng, split):
    return [Draft(question=f"{HOSTILE} where?", answer=HOSTILE)]


def guessable(scene, rng, split):
    return [Draft(question="Is there a patch?", answer="no" if scene.index % 10 == 0 else "yes", about=("patch",))]


def fair(scene, rng, split):
    return [Draft(question="Is there a key?", answer="no" if scene.index % 2 else "yes", about=("key",))]


TASKS = {
    "stepwise": ("grounding", stepwise), "hostile": ("understanding", hostile),
    "closed_guessable": ("understanding", guessable), "closed_fair": ("understanding", fair),
}  # fmt: skip


@pytest.fixture
def reported(hand_made, tmp_path):
    hand_made(tmp_path / "d", tasks=TASKS, source=HandMade(24, licences=("CC0", HOSTILE)))
    hand_made(tmp_path / "d", tasks=TASKS, source=HandMade(12, licences=("CC0", HOSTILE)), split="val")
    content = report(tmp_path / "d")
    return tmp_path / "d/report", content


def test_boxes_are_drawn_around_the_thing_and_not_elsewhere():
    picture = Image.new("RGB", (64, 128), (240, 240, 240))
    picture.paste(RED, (10, 40, 30, 90))
    drawn = draw_boxes(picture, {1: (10, 40, 30, 90)})
    assert drawn.size == (SIDE // 2, SIDE)  # twice as large
    blue = np.all(np.abs(np.asarray(drawn, int) - (0xE6, 0x19, 0x4B)) < 4, axis=2)
    blue[:80] &= False  # the label stands above the box
    rows, columns = np.flatnonzero(blue.any(1)), np.flatnonzero(blue.any(0))
    assert (rows.max(), columns.min(), columns.max()) == (181, 18, 61)
    inside = np.asarray(drawn)[82:178, 22:58].reshape(-1, 3)
    assert all(map(is_red, inside))


def test_texts_point_at_the_boxes_by_number_and_equal_boxes_share_one():
    record = {
        "id": "a", "question": "Q?", "answer": "From {box:1} to {box:0}.", "boxes": [[1, 1, 9, 9], [2, 2, 20, 20]],
        "steps": [{"text": "First {box:0}.", "boxes": [[2, 2, 20, 20]], "objects": []}],
    }  # fmt: skip
    shown = show(Sample(record, (Encoded(png(Image.new("RGB", (40, 30))), (40, 30)),)))
    assert (shown.steps, shown.answer) == (("First [1].",), "From [1] to [2].")


def test_a_sample_without_a_readable_picture_is_left_out():
    record = {"id": "a", "question": "Q?", "answer": "A", "boxes": [], "steps": []}
    assert [show(Sample(record, (Encoded(data, (9, 9)),))) for data in (None, b"no picture")] == [None, None]


def test_the_sheet_of_a_made_dataset_shows_red_inside_every_box(reported):
    sheet = Image.open(reported[0] / "sheet-stepwise.png").convert("RGB")
    pixels = np.asarray(sheet, int)
    assert (np.all(np.abs(pixels - RED) < 30, axis=2)).sum() > 10 * 55 * 35  # twelve patches of 64 x 42 pixels


def test_page_and_json_hold_the_same_numbers(reported):
    out, content = reported
    assert json.loads((out / "report.json").read_text()) == content
    page = (out / "report.html").read_text()
    text = html.unescape(re.sub(r"<[^>]+>", " ", page))
    words = " ".join(text.split())
    assert f"{content['records']} records of 4 tasks over 36 pictures" in words
    for warning in content["warnings"]:
        assert " ".join(warning.split()) in words
    for name, task in content["tasks"].items():
        assert f"{name} {task['records']} records, {task['kind']}" in words
        for answer, n in task["answers"]["top"]:
            assert f"{' '.join(answer.split())} {n}" in words


def test_everything_is_counted_exactly(reported):
    content = reported[1]
    tasks = content["tasks"]
    assert content["pictures"] == {"train": 24, "val": 12} and content["records"] == 4 * 36
    assert tasks["closed_guessable"]["answers"]["top"] == [["yes", 31], ["no", 5]]
    assert tasks["closed_fair"]["answers"]["evenness"] == 1.0
    assert tasks["stepwise"]["places"]["total"] == 72 and tasks["stepwise"]["boxes_per_record"] == {"2": 36}
    assert sum(map(sum, tasks["stepwise"]["places"]["cells"])) == 72
    assert tasks["stepwise"]["places"]["areas"][tasks["stepwise"]["places"]["area_edges"].index(0.1)] == 72  # 1/16
    assert content["licences"]["CC0"] == {"records": 72, "pictures": 18}
    assert content["look_alikes"]["pictures"] == 36 and content["look_alikes"]["across"] == {}


def test_a_guessable_task_is_called_guessable_and_a_fair_one_is_not(reported):
    said = "\n".join(reported[1]["warnings"])
    assert "closed_guessable: the answer can be guessed: 'yes' is the answer to 86% of the questions" in said
    assert "closed_fair" not in said


def test_one_answer_to_all_is_a_warning_unless_it_holds_a_box(reported):
    for answer, warned in (("It is red.", True), ("It is at {box:0}.", False)):
        content = copy.deepcopy(reported[1])
        content["tasks"]["stepwise"]["answers"] |= {"largest_share": 1.0, "top": [[answer, 36]]}
        assert any(f"stepwise: {answer!r}" in said for said in warnings(content)) is warned


def test_hostile_text_is_shown_and_not_obeyed(reported):
    page = (reported[0] / "report.html").read_text()
    assert "<script" not in page and "49" not in re.sub(r"base64,[^\"]*", "", page).split("<h2 id=")[2]
    assert page.count("&lt;script&gt;") > 10
    assert not re.search(r"(?:src|href)=\"(?!data:|#)", page)  # nothing is fetched: it opens offline


def test_task_names_cannot_lead_out_of_the_folder(hand_made, tmp_path):
    hand_made(tmp_path / "d", tasks={"../../evil": ("grounding", stepwise)}, size=2)
    report(tmp_path / "d", tmp_path / "r")
    assert (tmp_path / "r/sheet-______evil.png").exists() and not list(tmp_path.glob("*evil*"))


def test_figures_are_drawn(reported):
    for name in ("overview", "answers", "wordings", "question_types", "box_centres"):
        with Image.open(reported[0] / f"figure-{name}.png") as figure:
            assert np.asarray(figure.convert("L")).std() > 5


def test_without_matplotlib_the_page_says_what_is_missing(hand_made, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    hand_made(tmp_path / "d", tasks=TASKS, size=4)
    report(tmp_path / "d")
    assert "matplotlib is not installed" in (tmp_path / "d/report/report.html").read_text()
    assert not list((tmp_path / "d/report").glob("figure-*"))


def test_a_copy_in_another_split_is_found(hand_made, tmp_path):
    first = HandMade(6)
    data = first.scene(3, "train", 0).image_bytes()[0]
    copy = Image.open(io.BytesIO(data)).convert("RGB").resize((90, 60)).resize((120, 80))
    hand_made(tmp_path / "d", source=first, split="train")
    hand_made(tmp_path / "d", source=HandMade(5, pictures={1: copy}), split="val")
    content = report(tmp_path / "d")
    assert content["look_alikes"]["across"] == {"train and val": 1}
    (one, other, apart) = content["look_alikes"]["pairs"][0]
    assert {one, other} == {"train/hand/3", "val/hand/1"} and apart <= 6
    assert "1 pairs of pictures of the splits train and val look alike" in content["warnings"]


def test_the_command_writes_the_report_and_prints_warnings(hand_made, tmp_path, capsys):
    hand_made(tmp_path / "d", tasks=TASKS, size=20)
    assert cli.main(["report", str(tmp_path / "d"), "--out", str(tmp_path / "r"), "--no-looks"]) == 0
    said = capsys.readouterr().out
    assert "warning: closed_guessable" in said and str(tmp_path / "r/report.html") in said
    assert json.loads((tmp_path / "r/report.json").read_text())["look_alikes"] is None


def test_a_folder_that_is_no_dataset_is_named(tmp_path, capsys):
    assert cli.main(["report", str(tmp_path)]) == 1
    assert "not a finished dataset folder" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["records/../../evil.parquet", "records/gone.parquet"])
def test_a_manifest_that_names_other_files_is_refused(hand_made, tmp_path, name):
    hand_made(tmp_path / "d", size=2)
    pq.write_table(pa.table({"a": [1]}), tmp_path / "evil.parquet")
    manifest = json.loads((tmp_path / "d/manifest.json").read_text())
    manifest["splits"]["train"]["files"] = {name: ""}
    (tmp_path / "d/manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(SourceError, match="lacks"):
        report(tmp_path / "d")


def test_a_damaged_table_is_named(hand_made, tmp_path):
    hand_made(tmp_path / "d", size=2)
    (path,) = (tmp_path / "d/images").glob("*.parquet")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(SourceError, match="cannot read"):
        report(tmp_path / "d")


def linked(out, root, file):
    """Turn the one picture of a folder into a link, as an images table that only names its pictures has it."""
    (path,) = (out / "images").glob("*.parquet")
    table = pq.read_table(path)
    rows = table.to_pylist()
    rows[0]["image"] = {"bytes": None, "path": file}
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["splits"]["train"]["pictures_root"] = str(root)
    (out / "manifest.json").write_text(json.dumps(manifest))


def test_linked_pictures_are_read_from_their_folder_and_from_nowhere_else(hand_made, tmp_path):
    hand_made(tmp_path / "d", tasks={"stepwise": ("grounding", stepwise)}, size=1)
    (tmp_path / "root").mkdir()
    data = HandMade().scene(0, "train", 0).image_bytes()[0]
    for folder in (tmp_path, tmp_path / "root"):
        (folder / "a.png").write_bytes(data)
    linked(tmp_path / "d", tmp_path / "root", "a.png")
    assert report(tmp_path / "d", tmp_path / "r")["look_alikes"]["pictures"] == 1
    assert (tmp_path / "r/sheet-stepwise.png").exists()
    linked(tmp_path / "d", tmp_path / "root", "../a.png")
    content = report(tmp_path / "d", tmp_path / "r2")
    assert content["look_alikes"]["unreadable"] == 1 and not (tmp_path / "r2/sheet-stepwise.png").exists()


def test_a_picture_is_shown_in_the_frame_of_its_boxes():
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30)).save(buffer, "PNG", exif=exif)
    record = {
        "id": "a",
        "question": "Q {box:0}?",
        "answer": "A",
        "boxes": [],
        "steps": [],
        "question_boxes": [[0, 0, 9, 9]],
    }
    lying, upright = (show(Sample(record, (Encoded(buffer.getvalue(), size),))) for size in ((40, 30), (30, 40)))
    assert (lying.picture.size, upright.picture.size) == ((256, 192), (192, 256)) and lying.question == "Q [1]?"


def test_points_of_the_question_are_drawn_and_numbered():
    record = {
        "id": "a", "question": "{point:1}, {point:0} or {box:0}?", "answer": "A", "boxes": [], "steps": [],
        "question_boxes": [[0, 0, 9, 9]], "question_points": [[20, 15], [35, 5]],
    }  # fmt: skip
    shown = show(Sample(record, (Encoded(png(Image.new("RGB", (40, 30))), (40, 30)),)))
    assert shown.question == "(2), (1) or [1]?"
    for x, y in ((128, 96), (224, 32)):
        assert np.asarray(shown.picture.crop((x - 6, y - 6, x + 7, y + 7)))[..., 0].max() > 150
        assert shown.picture.getpixel((x, y)) == (0, 0, 0), "what is asked about stays to be seen"


def test_the_sheet_grows_with_its_texts():
    record = {"id": "a", "question": "word " * 300, "answer": "A", "boxes": [], "steps": []}
    shown = show(Sample(record, (Encoded(png(Image.new("RGB", (40, 30))), (40, 30)),)))
    assert contact_sheet("t", [shown]).height > 500


def test_several_pictures_are_shown_side_by_side_each_with_its_own_boxes():
    record = {
        "id": "a", "question": "{box:0}?", "question_boxes": [[0, 0, 20, 20]], "answer": "{box:0}", "picture": 1,
        "boxes": [[0, 0, 20, 20]], "steps": [{"text": "{box:0}", "boxes": [[0, 0, 20, 20]], "picture": 0}],
    }  # fmt: skip
    grounds = [Image.new("RGB", size, "white") for size in ((40, 40), (80, 40))]
    shown = show(Sample(record, tuple(Encoded(png(each), each.size) for each in grounds)))
    assert (shown.question, shown.steps, shown.answer) == ("[1]?", ("[1]",), "[2]")
    pixels = np.asarray(shown.picture, int)
    assert shown.picture.width > 2 * SIDE and shown.picture.height == SIDE
    first, second = ((np.abs(pixels - ink) < 4).all(axis=2) for ink in ((0xE6, 0x19, 0x4B), (0x00, 0x82, 0xC8)))
    assert first[:, :SIDE].any() and not first[:, SIDE:].any() and second[:, SIDE:].any() and not second[:, :SIDE].any()
    assert show(Sample(record, (Encoded(png(grounds[0]), (40, 40)), Encoded(None, (80, 40))))) is None
    assert contact_sheet("pairs", [shown, shown]).width > 2 * shown.picture.width


def test_a_report_on_questions_about_several_pictures(tmp_path):
    import synth

    synth.make(synth.Settings(out=str(tmp_path / "d"), size=24, task="several"))
    content = report(tmp_path / "d")
    rows = pq.read_table(next((tmp_path / "d" / "records").glob("*"))).to_pylist()
    assert content["records"] == len(rows) and content["tasks"]["more_in"]["closed"]
    boxes = sum(len(row["boxes"]) + sum(len(step["boxes"]) for step in row["steps"]) for row in rows)
    assert sum(task["places"]["total"] for task in content["tasks"].values()) == boxes > 20
    named = {name for row in rows for name in (row["image_id"], *row["more_image_ids"])}
    assert (
        sum(entry["pictures"] for entry in content["licences"].values()) == len(named) == content["pictures"]["train"]
    )
    assert Image.open(tmp_path / "d/report/sheet-which_picture.png").width > 4 * SIDE
