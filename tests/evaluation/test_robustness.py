"""Protocols on changed pictures: same questions, truth where the picture shows it, and what cannot be asked counted."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageDraw

from lynx_moe.data.records import Picture, Record, Step
from lynx_moe.errors import ConfigError
from lynx_moe.evaluation import Answered
from lynx_moe.evaluation.judging import verdict
from lynx_moe.evaluation.measuring import measure
from lynx_moe.evaluation.protocols.base import Item, Score, Write
from lynx_moe.evaluation.protocols.records import Records, record_of, truth_of
from lynx_moe.evaluation.robustness import GONE, PLACELESS, SEVERAL, Changed
from lynx_moe.families.dialects import Parsed
from lynx_moe.grounding import Mask
from tests.evaluation.asked import Choices, tiny_asker, write_choices, write_records

BOX = (30.0, 20.0, 70.0, 60.0)


def shown():
    image = Image.new("RGB", (120, 90))
    ImageDraw.Draw(image).rectangle((30, 20, 69, 59), fill="white")
    return image


RECORD = Record(
    id="r", question="Where?", answer="At {box:0}.", kind="grounding", task="find_one", image_id="p", size=(120, 90),
    boxes=(BOX,), load=shown,
)  # fmt: skip


class Given(Records):
    """Records that a test makes."""

    def __init__(self, *records):
        super().__init__("given")
        self.records = records

    def items(self):
        for record in self.records:
            yield Item(id=record.id, asks=(Write(record=record),), truth=truth_of(record), group="g")


def changed(change, level, *records):
    protocol = Changed(Given(*records), change, level)
    return list(protocol.items()), dict(protocol.faults)


@pytest.mark.parametrize("change", ["crop", "viewpoint"])
def test_truth_is_moved_with_the_picture_that_is_shown(change):
    records = [replace(RECORD, id=str(k), image_id=str(k)) for k in range(20)]
    items, faults = changed(change, 3, *records)
    assert len(items) + faults.get(GONE, 0) == 20 and len(items) > 10
    for item in items:
        record = item.asks[0].record
        image = record.image()
        assert image.size == record.size == tuple(item.truth["sizes"][0])
        white = np.asarray(image)[..., 0] > 127
        rows, columns = np.where(white.any(1))[0], np.where(white.any(0))[0]
        painted = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
        assert item.truth["boxes"][0] == pytest.approx(painted, abs=1.01)
        assert record.boxes == record_of("x", item.truth).boxes


@pytest.mark.parametrize("change", ["crop", "viewpoint"])
def test_masks_are_moved_with_the_picture_that_is_shown(change):
    pixels = np.asarray(shown())[..., 0] > 127
    pixels[:40, :50] = False  # no rectangle
    mask = Mask.of_array(pixels)

    def load():
        return Image.fromarray(np.repeat(np.uint8(pixels)[..., None] * 255, 3, axis=2))

    outlined = replace(RECORD, answer="It is {mask:0}.", masks=(mask,), load=load)
    asking = replace(outlined, question="{box:0}?", question_boxes=(BOX,), question_masks=(mask,))
    items = [i for k in range(6) for i in changed(change, 3, replace(asking, id=str(k), image_id=str(k)))[0]]
    assert items
    for item in items:
        record = item.asks[0].record
        white = np.asarray(record.image())[..., 0] > 127
        for found in (record.masks[0], record.question_masks[0], record_of("x", item.truth).masks[0]):
            assert found.size == record.size and (found.array() != white).mean() < 0.01
        assert verdict(Answered(record_of("x", item.truth), "", Parsed(), 0, record.masks))


def test_truth_that_left_the_picture_is_left_out_and_counted():
    corner = [replace(RECORD, id=str(k), image_id=str(k), boxes=((0, 0, 12, 9),)) for k in range(40)]
    items, faults = changed("crop", 5, *corner)
    assert len(items) + faults[GONE] == 40 and faults[GONE] > 10
    assert all(min(item.truth["boxes"][0]) >= 0 for item in items)


def test_places_that_the_question_or_a_step_shows_move_too():
    record = replace(
        RECORD, question="What is at {box:0} and {point:0}?", question_boxes=(BOX,), question_points=((50.0, 40.0),),
        steps=(Step("There at {box:0}.", (BOX,)),),
    )  # fmt: skip
    item = next(i for k in range(20) for i in changed("crop", 2, replace(record, image_id=str(k)))[0])
    asked, box = item.asks[0].record, item.truth["boxes"][0]
    assert asked.question_boxes == asked.boxes == (tuple(box),)
    assert asked.question_points[0] == pytest.approx((box[0] + 20, box[1] + 20))
    assert item.truth["steps"][0]["boxes"] == [box]


def test_truth_without_a_place_is_not_asked_about_a_moved_picture():
    count = replace(RECORD, boxes=(), answer="3", kind="understanding", task="count")
    assert changed("crop", 1, count) == ([], {PLACELESS: 1})
    assert len(changed("noise", 1, count)[0]) == 1


def test_several_pictures_are_painted_and_not_moved():
    two = replace(RECORD, more=(Picture("q", (120, 90), shown),))
    assert changed("viewpoint", 1, two) == ([], {SEVERAL: 1})
    record = changed("noise", 3, two)[0][0].asks[0].record
    assert record.image(0).tobytes() != record.image(1).tobytes() != shown().tobytes()


def test_scored_texts_see_the_changed_picture(tmp_path):
    folder = write_choices(tmp_path, [("a", "red", "red", "blue")])
    item = next(Changed(Choices(folder), "light", 5).items())
    assert isinstance(item.asks[0], Score) and item.asks[0].load().getpixel((0, 0)) != (255, 0, 0)
    assert item.asks[0].image_id not in ("", "a.png") and item.asks[0].image_id == item.asks[1].image_id


def test_a_protocol_without_places_cannot_be_moved(tmp_path):
    with pytest.raises(ConfigError, match="boxes_in"):
        Changed(Choices(tmp_path), "crop", 1)
    with pytest.raises(ConfigError, match="no change of the picture called 'blurr'"):
        Changed(Choices(tmp_path), "blurr", 1)


def test_the_same_questions_are_asked_in_the_same_order_and_answers_may_differ(tmp_path):
    folder = write_records(tmp_path / "records", size=2)
    asker = tiny_asker(batch_size=16)
    plain = measure(Records(folder), asker, tmp_path / "plain", progress=False)
    dark = measure(Changed(Records(folder), "noise", 5), asker, tmp_path / "noise", progress=False)
    assert [row.id for row in plain.rows] == [row.id for row in dark.rows]
    assert [row.answers for row in plain.rows] != [row.answers for row in dark.rows]


def test_under_a_limit_the_items_are_those_that_are_asked_unchanged(tmp_path):
    folder = write_records(tmp_path / "records", size=4)
    asker = tiny_asker(batch_size=16)
    plain = measure(Records(folder), asker, tmp_path / "plain", limit=12, progress=False)
    crop = measure(Changed(Records(folder), "crop", 4, 12), asker, tmp_path / "crop", limit=12, progress=False)
    assert {row.id for row in crop.rows} < {row.id for row in plain.rows}
    assert len(crop.rows) + sum(crop.faults.values()) == 12
