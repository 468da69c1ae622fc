"""Protocols whose truth is a mask: RefCOCO's and PerBench-style."""

import json
import pickle

import pytest
from pycocotools import mask as official

from lynx_moe.evaluation.protocols.reply_mask import reply_mask
from tests.evaluation.protocols.made import REFERENCES, SIZE, at, dump, made, reply, rows, truth

STAR = [(10.0, 10.0), (50.0, 12.0), (30.0, 40.0)]


def test_polygons_of_a_reply_are_drawn_together_as_pycocotools_does():
    other = [(60.0, 60.0), (90.0, 60.0), (90.0, 90.0), (60.0, 90.0)]
    flat = [[value for point in polygon for value in point] for polygon in (STAR, other)]
    theirs = official.decode(official.merge(official.frPyObjects(flat, 100, 100))).astype(bool)
    assert (reply_mask(reply("", polygons=[STAR, other]), SIZE, from_box=False) == theirs).all()


def test_box_is_a_mask_only_when_it_is_asked_for_and_nothing_better_is_there():
    assert not reply_mask(reply("[10, 20, 30, 60]"), SIZE, from_box=False).any()
    box = reply_mask(reply("[10, 20, 30, 60] [0, 0, 100, 100]"), SIZE, from_box=True)
    assert box.sum() == 800 and box[20:60, 10:30].all()
    both = reply_mask(reply("[10, 20, 30, 60]", polygons=[STAR]), SIZE, from_box=True)
    assert (both == reply_mask(reply("", polygons=[STAR]), SIZE, from_box=True)).all()


def test_reply_without_a_mask_is_empty_and_a_bad_polygon_breaks_nothing():
    assert not reply_mask(reply("no"), SIZE, from_box=True).any()
    assert not reply_mask(reply("", polygons=[[(1.0, 1.0), (2.0, 2.0)]]), SIZE, from_box=False).any()
    assert not reply_mask(reply("", polygons=[[(1.0, 1.0), (2.0, float("nan")), (5.0, 5.0)]]), SIZE, False).any()


def test_large_things_weigh_more_in_ciou_than_in_giou(tmp_path):
    protocol = made("refcoco_segmentation", tmp_path)
    result = protocol.summarise(rows(protocol, lambda i, a: truth(i, a) if i.id == "3-0" else "no"))
    # The person has 2500 pixels, the cat, asked for twice, 1200.
    assert result["ciou"] == pytest.approx(2500 / (2500 + 2 * 1200)) and result["giou"] == pytest.approx(1 / 3)
    assert result["precision_0.9"] == pytest.approx(1 / 3) and result["no_mask"] == pytest.approx(2 / 3)


def test_result_says_how_many_masks_are_boxes(tmp_path):
    protocol = made("refcoco_segmentation", tmp_path)
    assert protocol.summarise(rows(protocol))["masks_of_boxes"] == 1.0
    plain = made("refcoco_segmentation", tmp_path, from_box=False)
    result = plain.summarise(rows(plain))
    assert result["ciou"] == 0.0 == result["masks_of_boxes"]


def test_run_lengths_are_truth_like_polygons(tmp_path):
    protocol = made("refcoco_segmentation", tmp_path)
    content = json.loads((tmp_path / "instances.json").read_text())
    for row in content["annotations"]:
        packed = official.merge(official.frPyObjects(row["segmentation"], 100, 100))
        row["segmentation"] = {"size": [100, 100], "counts": packed["counts"].decode()}
    dump(tmp_path / "instances.json", content)
    some = [protocol.judge(item, [reply(at(item.truth["box"]))]) for item in protocol.items()]
    assert protocol.summarise(some)["ciou"] == 1.0


def test_object_whose_mask_cannot_be_drawn_is_left_out_and_counted(tmp_path):
    protocol = made("refcoco_segmentation", tmp_path)
    content = json.loads((tmp_path / "instances.json").read_text())
    content["annotations"][0]["segmentation"] = [[1, 2]]
    dump(tmp_path / "instances.json", content)
    assert [item.id for item in protocol.items()] == ["3-0"] and protocol.faults == {"object without a mask": 2}
    (tmp_path / "refs(unc).p").write_bytes(pickle.dumps(REFERENCES[:1], protocol=2))


def test_perbench_question_shows_its_regions_as_boxes(tmp_path):
    items = {item.id: item for item in made("perbench", tmp_path).items()}
    record = items["1"].asks[0].record
    assert record.question_boxes == ((10.0, 10.0, 50.0, 40.0),)
    assert record.question == "What is at {box:0}?\nA. a cat\nB. a dog\nAnswer with the letter of the right option."
    assert sorted(items) == ["1", "2", "3"]


def test_perbench_measures_choices_and_masks_and_counts_the_captions(tmp_path):
    protocol = made("perbench", tmp_path)
    result = protocol.summarise(rows(protocol, lambda i, a: "A" if i.group == "vqa" else truth(i, a)))
    assert result["accuracy"] == 0.5 and result["ciou"] == 1.0 and result["overall_without_captions"] == 75.0
    assert result["faults"] == {"task 'caption' is not measured": 1}
    assert result["by_group"]["vqa"]["accuracy"] == 0.5 and result["by_group"]["vqa"]["ciou"] is None


@pytest.mark.parametrize(
    ("text", "right"),
    [("A", True), ("(A)", True), ("A.", True), ("I think it is A.", True), ("B", False), ("a dog", False), ("", False),
     ("A blue thing, so B.", False)],
)  # fmt: skip
def test_perbench_letters_are_read_among_the_options_there_are(tmp_path, text, right):
    protocol = made("perbench", tmp_path)
    item = next(item for item in protocol.items() if item.group == "vqa" and item.truth["answer"] == "A")
    assert protocol.judge(item, [reply(text)]).right is right


def test_perbench_regions_keep_their_numbers_or_the_question_is_left_out(tmp_path):
    made("perbench", tmp_path)
    content = json.loads((tmp_path / "perbench.json").read_text())
    two, bad = [[10, 10, 40, 30], [50, 60, 20, 10]], [[10, 10, 0, 30], [50, 60, 20, 10]]
    first = next(row for row in content if row["task"] == "vqa")
    rows = [{**first, "id": k, "question": "{region:1} or {region:0}?", "regions": regions}
            for k, regions in ((1, two), (2, bad))]  # fmt: skip
    dump(tmp_path / "perbench.json", rows)
    protocol = type(made("perbench", tmp_path / "other"))(folder=tmp_path)
    (item,) = protocol.items()
    assert item.asks[0].record.question_boxes == ((10.0, 10.0, 50.0, 40.0), (50.0, 60.0, 70.0, 70.0))
    assert protocol.faults == {"question with a region that is no box": 1}


def test_perbench_rows_that_cannot_be_asked_are_counted(tmp_path):
    protocol = made("perbench", tmp_path)
    content = json.loads((tmp_path / "perbench.json").read_text())
    content += [7, {"id": 9, "task": "vqa", "question": "?", "image": "one.jpg", "options": ["x", "y"], "answer": "C"}]
    content += [{"id": 8, "task": "res", "question": "?", "image": "one.jpg", "segmentation": []}]
    dump(tmp_path / "perbench.json", content)
    assert len(list(protocol.items())) == 3
    assert dict(protocol.faults) == {
        "row without id or question": 1, "choice without options, or whose answer is none of them": 1,
        "question without a mask": 1, "task 'caption' is not measured": 1,
    }  # fmt: skip
