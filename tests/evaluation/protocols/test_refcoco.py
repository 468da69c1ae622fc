"""RefCOCO's items and Acc@0.5, against MAttNet's evaluation written anew."""

import json
import pickle

import numpy as np
import pytest

from lynx_moe.errors import ConfigError, RecordError
from lynx_moe.evaluation.protocols import PROTOCOLS
from tests.evaluation.protocols.made import (
    REFERENCES,
    at,
    dump,
    image,
    instances,
    made,
    reference,
    reply,
    rows,
    thing,
    truth,
)


def questions(protocol):
    return {item.id: item.asks[0].record.question for item in protocol.items()}


def test_every_sentence_is_an_item_in_its_cleaned_words(tmp_path):
    protocol = made("refcoco", tmp_path)
    assert questions(protocol) == {
        "1-0": "Find cat on the left.", "1-1": "Find the cat.", "3-0": "Find the person.",
    }  # fmt: skip
    assert next(protocol.items()).truth["box"] == [10, 10, 50, 40] and protocol.faults == {}


def test_several_splits_are_told_apart_in_the_result(tmp_path):
    protocol = made("refcoco", tmp_path, split="val+testA")
    result = protocol.summarise(rows(protocol, lambda i, a: truth(i, a) if i.group == "testA" else ""))
    assert {key: part["acc50"] for key, part in result["by_group"].items()} == {"testA": 1.0, "val": 0.0}
    assert result["acc50"] == pytest.approx(1 / 4) and result["no_box"] == pytest.approx(3 / 4)


def mattnet(box1, box2):
    """computeIoU of lib/models/eval_dets_utils.py; boxes are [x, y, w, h] in whole pixels."""
    x1, y1 = max(box1[0], box2[0]), max(box1[1], box2[1])
    x2 = min(box1[0] + box1[2] - 1, box2[0] + box2[2] - 1)
    y2 = min(box1[1] + box1[3] - 1, box2[1] + box2[3] - 1)
    inter = (x2 - x1 + 1) * (y2 - y1 + 1) if x1 < x2 and y1 < y2 else 0
    return float(inter) / (box1[2] * box1[3] + box2[2] * box2[3] - inter)


def test_accuracy_is_mattnets_on_random_boxes(tmp_path):
    rng = np.random.default_rng(1)
    true = [[int(v) for v in (*rng.integers(0, 40, 2), *rng.integers(10, 50, 2))] for _ in range(120)]
    told = [
        [max(0, b[0] + int(rng.integers(-9, 10))), max(0, b[1] + int(rng.integers(-9, 10))), b[2], b[3]] for b in true
    ]
    told[0] = [true[0][0], true[0][1], true[0][2], true[0][3]]
    instances(tmp_path, [thing(k, 1, 1, box) for k, box in enumerate(true)])
    dump(tmp_path / "refs(unc).json", [reference(k, 1, k, "val", f"thing {k}") for k in range(len(true))])
    protocol = PROTOCOLS.get("refcoco")(folder=tmp_path)
    answers = {f"{k}-0": at((x, y, x + w, y + h)) for k, (x, y, w, h) in enumerate(told)}
    result = protocol.summarise(rows(protocol, lambda item, ask: answers[item.id]))
    theirs = [mattnet(a, b) for a, b in zip(told, true, strict=True)]
    assert result["acc50"] == pytest.approx(np.mean([value >= 0.5 for value in theirs]))
    assert result["mean_iou"] == pytest.approx(np.mean(theirs), abs=0.01) and 0.2 < result["acc50"] < 0.9


def test_overlap_of_exactly_half_is_right_and_a_little_less_is_not(tmp_path):
    instances(tmp_path, [thing(11, 1, 1, [0, 0, 40, 20])])
    dump(tmp_path / "refs(umd).json", [reference(1, 1, 11, "val", "half")])
    protocol = PROTOCOLS.get("refcoco")(folder=tmp_path)
    assert rows(protocol, lambda *_: "[0, 0, 20, 20]")[0].right is True
    assert rows(protocol, lambda *_: "[0, 0, 19, 20]")[0].right is False


def test_first_box_counts_even_when_a_later_one_is_better(tmp_path):
    protocol = made("refcoco", tmp_path)
    result = protocol.summarise(rows(protocol, lambda item, ask: at((90, 90, 99, 99), item.truth["box"])))
    assert result["acc50"] == 0.0 and result["no_box"] == 0.0


def test_answer_that_cannot_be_read_is_wrong_and_counted(tmp_path):
    protocol = made("refcoco", tmp_path)
    result = protocol.summarise(rows(protocol, lambda *_: "[50, 50, 10, 10] [1, 2, 3]"))
    assert result["acc50"] == 0.0 and result["unreadable"] == 1.0
    assert result["errors"] == {"inverted": 3, "unparseable": 3}


def test_pickle_and_json_read_alike(tmp_path):
    first = questions(made("refcoco", tmp_path / "a"))
    second = made("refcoco", tmp_path / "b")
    (tmp_path / "b" / "refs(unc).p").unlink()
    dump(tmp_path / "b" / "refs(unc).json", REFERENCES)
    assert questions(second) == first


def test_pickle_that_would_run_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "made"), "w"))

    protocol = made("refcoco", tmp_path)
    (tmp_path / "refs(unc).p").write_bytes(pickle.dumps([Evil()]))
    with pytest.raises(RecordError, match="not a pickle of plain data"):
        list(protocol.items())
    assert not (tmp_path / "made").exists()


def test_two_ways_to_divide_are_not_guessed_between(tmp_path):
    protocol = made("refcoco", tmp_path)
    dump(tmp_path / "refs(google).json", [reference(9, 2, 13, "val", "one")])
    with pytest.raises(ConfigError, match="divided in several ways"):
        list(protocol.items())
    chosen = type(protocol)(folder=tmp_path, split_by="google")
    assert questions(chosen) == {"9-0": "Find one."}


def test_bad_rows_are_counted_and_the_rest_is_asked(tmp_path):
    protocol = made("refcoco", tmp_path)
    bad = [
        {"ref_id": 7}, "text", reference(1, 1, 11, "val", "again", "and again"),
        reference(20, 9, 11, "val", "no picture"),
        reference(21, 1, 99, "val", "no object"), reference(22, 2, 11, "val", "object of another picture"),
        reference(23, 1, 11, "val", ""), reference(24, 1, [11, 12], "val", "two"),
        reference(25, 1, [-1], "val", "none"),
    ]  # fmt: skip
    (tmp_path / "refs(unc).p").write_bytes(pickle.dumps([*REFERENCES, *bad], protocol=2))
    assert len(questions(protocol)) == 3
    assert dict(protocol.faults) == {
        "reference without image_id, ann_id, split or sentences": 2, "duplicate id": 2,
        "sentence about an unlisted picture": 1, "sentence about an unknown object": 2, "sentence without words": 1,
        "sentence about no object or several": 2,
    }  # fmt: skip


def test_bad_annotations_are_counted(tmp_path):
    protocol = made("refcoco", tmp_path)
    bad = [thing(11, 1, 1, [0, 0, 5, 5]), thing(30, 9, 1, [0, 0, 5, 5]), thing(31, 1, 1, [0, 0, 0, 5]), {"id": 5}, 7]
    content = json.loads((tmp_path / "instances.json").read_text())
    images = [*content["images"], image(1, "again.jpg"), {"file_name": "x"}]
    dump(tmp_path / "instances.json", content | {"annotations": content["annotations"] + bad, "images": images})
    assert len(questions(protocol)) == 3
    assert dict(protocol.faults) == {
        "duplicate annotation id": 1, "annotation of an unlisted picture": 1, "picture without id": 1,
        "annotation without ids or a usable box": 3, "duplicate picture id": 1,
    }  # fmt: skip


def test_phrase_with_braces_stands_as_it_is(tmp_path):
    protocol = made("refcoco", tmp_path, prompt="{say} {phrase}?")
    (tmp_path / "refs(unc).p").write_bytes(pickle.dumps([reference(1, 1, 11, "val", "a {phrase} {box:0")], protocol=2))
    assert questions(protocol) == {"1-0": "{say} a {phrase} {box:0?"}


def test_interval_is_wider_where_the_questions_share_few_pictures(tmp_path):
    images = [image(k, f"{k}.jpg") for k in range(40)]
    widths = []
    for num_pictures in (4, 40):
        folder = tmp_path / str(num_pictures)
        things = [thing(k, k % num_pictures, 1, [10, 10, 40, 40]) for k in range(40)]
        instances(folder, things, images[:num_pictures])
        dump(folder / "refs(unc).json", [reference(k, k % num_pictures, k, "val", "it") for k in range(40)])
        protocol = PROTOCOLS.get("refcoco")(folder=folder)
        right = {image["file_name"] for image in images[: num_pictures // 2]}
        say = {True: at((10, 10, 50, 50)), False: ""}
        found = [protocol.judge(item, [reply(say[item.truth["image"] in right])]) for item in protocol.items()]
        result = protocol.summarise(found)
        assert result["acc50"] == 0.5
        widths.append(result["interval"][1] - result["interval"][0])
    assert widths[0] > 2 * widths[1] > 0


def test_interval_of_one_picture_is_none(tmp_path):
    protocol = made("refcoco", tmp_path)
    assert protocol.summarise([row for row in rows(protocol) if row.id.startswith("1")])["interval"] is None
