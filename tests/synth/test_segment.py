"""Tasks that answer with masks: what they ask for, that each mask they speak of is there, that nothing else changes."""

import io
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pycocotools import mask as coco_masks

import synth
from synth.__main__ import main
from synth.check import faults, scene_from
from synth.errors import RecordError, SettingsError
from synth.export_coco import main as export
from synth.languages import LANGUAGES, load_pack
from synth.masks import SceneMasks, add_masks, check_masks
from synth.quality.samples import Sample
from synth.quality.sheets import show
from synth.quality.tables import Encoded
from synth.record import MASK, make_picture
from synth.scene import Obj, OutlineError, Region
from synth.settings import Settings
from synth.shard import scene_records
from synth.sources.rendered import RenderedOptions, RenderedSource
from synth.tasks import TASKS
from tests.synth.by_hand import asked, drafts, found, scene, with_mask

SEGMENT = ["segment_all", "segment_one", "segment_refer", "segment_relation"]
FIND = {"segment_all": "find_all", "segment_one": "find_one", "segment_refer": "refer", "segment_relation": "relation"}


def filled(k, name, *box, **more):
    """A thing that fills its box."""
    return with_mask(Obj(id=k, name=name, box=tuple(map(float, box)), **more))


CAT = filled(0, "cat", 5, 10, 30, 40)
STARS = filled(1, "star", 60, 12, 90, 38), filled(2, "star", 120, 10, 150, 42)


def rows_of(out):
    return [row for file in sorted((out / "records").glob("*.parquet")) for row in pq.read_table(file).to_pylist()]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("segment") / "data"
    synth.make(Settings(out=str(out), size=24, task=SEGMENT, masks=True, rendered=RenderedOptions(objects=[4, 7])))
    return out


def test_every_mask_that_is_spoken_of_is_that_of_its_box(made):
    spoken = 0
    for row in rows_of(made):
        numbers = list(map(int, MASK.findall(row["answer"])))
        assert numbers == list(range(len(row["boxes"]))), row["answer"]
        for k in numbers:
            x1, y1, x2, y2 = row["boxes"][k]
            assert coco_masks.toBbox(row["masks"][k]).tolist() == [x1, y1, x2 - x1, y2 - y1]
            spoken += 1
        assert [bool(row["steps"])] == [row["task"] == "segment_relation"]
        assert all("{box:0}" in step["text"] for step in row["steps"])
        assert (row["answer"].startswith("There is no")) == (not row["boxes"])
    assert spoken > 100
    assert main(["check", str(made)]) == 0


def test_things_whose_mask_nobody_knows_are_not_asked_for():
    def unknown():
        raise OutlineError("torn")

    for mask in (None, unknown, np.zeros((100, 200), bool)):  # an empty one is none of its box
        things = replace(CAT, mask=mask), *STARS
        assert not any("cat" in question for question, _ in asked("segment_one", *things))
        assert {answer for question, answer in asked("segment_all", *things) if "star" in question} == {
            "Found 2: {mask:0} {mask:1}."
        }
        assert not any("cat" in question for question, answer in asked("segment_all", *things) if "Found" in answer)
    twins = CAT, filled(3, "dog", 5, 10, 30, 40)  # whose pixels they are cannot be told by the box
    assert not asked("segment_one", *twins)


def test_painted_words_are_not_asked_for():
    word = filled(5, 'word "OPEN"', 100, 60, 150, 80, kind="text", attributes={"text": "OPEN"})
    for task in ("segment_one", "segment_all", "segment_relation"):
        assert not any("{mask" in answer and "OPEN" in answer + question.split(" of ")[0]
                       for question, answer in asked(task, CAT, word)), task  # fmt: skip
    assert found("segment_one", CAT, word) == {"cat": ([CAT.box], [])}


def test_of_what_is_not_there_it_is_said_so_without_a_mask():
    answers = {answer for _, answer in asked("segment_all", CAT, *STARS)}
    assert answers == {"Found 1: {mask:0}.", "Found 2: {mask:0} {mask:1}.", "There is no dog.", "There is no key."}


def test_a_referring_expression_is_asked_where_its_region_is_a_thing_with_a_mask():
    regions = [
        Region(text="the left one", box=CAT.box, unique=True),
        Region(text="grass", box=(1.0, 1.0, 9.0, 9.0), unique=True),
    ]
    here = scene(CAT, *STARS, regions=regions)
    assert {(d.answer, d.boxes[0], d.phrase) for d in drafts("segment_refer", here)} == {
        ("It is {mask:0}.", CAT.box, "the left one")
    }


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("name", SEGMENT)
def test_no_question_for_a_mask_is_worded_as_one_for_a_box(name, language):
    pack = load_pack(language)
    ours, theirs = (set().union(*pack.tasks[task]["question"]) for task in (name, FIND[name]))
    others = {text for task in pack.tasks if not task.startswith("segment") for key in pack.tasks[task].values()
              for texts in key for text in texts}  # fmt: skip
    assert ours and theirs and not ours & others
    for text in ours:
        assert not any(
            word in text.lower() for word in ("box", "find", "locate", "point", "枠", "見つけ", "探し", "指して")
        )
    assert not set(pack.tasks[name]["question"][0]) & set(pack.tasks[name]["question"][1])


def test_without_masks_no_word_stands_for_them_and_asked_by_name_they_say_what_to_do():
    assert {name for name, task in TASKS.items() if task.masks} == set(SEGMENT)
    for chosen in ("all", "grounding", ["all", "several"]):
        bare, masked = (Settings(task=chosen, masks=masks).task_names() for masks in (False, True))
        assert not set(bare) & set(SEGMENT) and set(masked) - set(bare) == set(SEGMENT)
    with pytest.raises(SettingsError, match="'segment_one' answers with masks") as caught:
        Settings(task=["find_one", "segment_one"]).check()
    assert caught.value.fix == "masks=true"


def test_the_rows_of_all_other_tasks_are_the_same_with_and_without_them():
    source = RenderedSource(RenderedOptions())
    for k in range(6):
        here = source.scene(k, "train", 0)
        bare, masked = (
            scene_records(here, settings, settings.task_names())[0]
            for settings in (Settings(masks=False), Settings(masks=True))
        )
        assert bare == [row for row in masked if row["task"] not in SEGMENT]
        assert len(masked) > len(bare) > 20


def test_a_task_that_speaks_of_an_unknown_mask_is_named():
    here = scene(CAT, *STARS)
    row = scene_records(here, Settings(masks=True), ["segment_one"])[0][0]
    add_masks(row, [SceneMasks(here)])
    check_masks(row)
    del row["about"]
    stored = scene_from(make_picture(here, "a"))
    assert list(faults(row, stored, masks=True)) == []
    row["masks"][0] = None
    assert any("speaks of mask 0" in fault for fault in faults(row, stored, masks=True))
    with pytest.raises(RecordError, match=r"segment_one/0.*speaks of mask 0") as caught:
        check_masks(row)
    assert "masks=True" in caught.value.fix


def test_data_that_only_links_its_pictures_is_checked_too(tmp_path):
    """The stored scene then has no masks: what is asked must not be refused for that."""
    coco = tmp_path / "coco"
    export([str(coco), "--size", "6"])
    capture = ["source=coco", f"folder.path={coco}", "folder.val_fraction=0", "images=link", "masks=true"]
    assert main([*capture, f"task=[{','.join(SEGMENT)}]", f"out={tmp_path / 'd'}"]) == 0
    assert len(rows_of(tmp_path / "d")) > 10
    assert main(["check", str(tmp_path / "d")]) == 0


def test_a_report_draws_the_masks_that_are_spoken_of(made):
    row = next(row for row in rows_of(made) if row["task"] == "segment_one")
    image = next(
        image for file in (made / "images").glob("*.parquet") for image in pq.read_table(file).to_pylist()
        if image["image_id"] == row["image_id"]
    )  # fmt: skip
    size = image["width"], image["height"]
    blank = io.BytesIO()
    Image.new("RGB", size, "white").save(blank, "PNG")
    shown = show(Sample(row, (Encoded(blank.getvalue(), size),)))
    assert shown.answer == "It is [mask 1]."
    mask = Image.fromarray(coco_masks.decode(row["masks"][0]) * 255).resize(shown.picture.size)
    x1, y1, x2, y2 = (round(v * 256 / max(size)) for v in row["boxes"][0])
    inside = (slice(y1 + 17, y2 - 4), slice(x1 + 4, x2 - 4))  # without the box's outline and its number
    coloured = np.asarray(shown.picture)[..., 1] < 200
    agree = (coloured == (np.asarray(mask) > 127))[inside]
    assert agree.size > 50 and agree.mean() > 0.9
