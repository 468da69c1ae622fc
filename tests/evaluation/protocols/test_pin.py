"""PIN's choice of pictures and its mean IoU, on COCO's, LVIS's and VOC's files."""

import json

import pytest

from lynx_moe.errors import ConfigError
from lynx_moe.evaluation.protocols import PROTOCOLS
from lynx_moe.grounding import iou
from tests.evaluation.protocols.made import WRITERS, at, dump, rows, thing, truth


def pin(folder, data, **settings):
    WRITERS[f"{data}_detection"](folder)
    return PROTOCOLS.get("pin")(folder=folder, data=data, **settings)


@pytest.mark.parametrize("data", ["coco", "lvis", "voc"])
def test_each_object_is_asked_for_by_its_category(tmp_path, data):
    protocol = pin(tmp_path, data)
    names = {item.asks[0].record.question for item in protocol.items()}
    assert len(names) == (3 if data == "voc" else 4) and "Find the cat." in names
    assert protocol.summarise(rows(protocol))["by_group"]["2 objects"]["n"] == 4


def test_pictures_with_more_objects_or_none_are_left_out_and_counted(tmp_path):
    protocol = pin(tmp_path, "coco")
    file = tmp_path / "annotations" / "instances_val2017.json"
    content = json.loads(file.read_text())
    content["annotations"] += [thing(20, 1, 1, [0, 0, 9, 9]), thing(21, 1, 1, [9, 0, 9, 9])]
    dump(file, content)
    assert {item.truth["image"] for item in protocol.items()} == {"two.jpg"}
    assert protocol.faults == {"picture with no object, or more than asked for": 2}
    assert len(list(pin(tmp_path / "b", "coco", most_objects=1).read())) == 0


def test_two_things_of_one_name_are_both_asked_for(tmp_path):
    protocol = pin(tmp_path, "voc")
    people = [item for item in protocol.items() if item.truth["category"] == "person"]
    assert len(people) == 2 and len({item.asks[0].record.question for item in people}) == 1
    result = protocol.summarise(rows(protocol, lambda item, ask: at((0, 0, 50, 50))))
    assert result["acc50"] == pytest.approx(1 / 4)


def test_mean_iou_is_the_mean_of_first_boxes(tmp_path):
    protocol = pin(tmp_path, "coco")
    told = (15, 15, 60, 60)
    result = protocol.summarise(rows(protocol, lambda item, ask: at(told, item.truth["box"])))
    assert result["mean_iou"] == pytest.approx(sum(iou(told, item.truth["box"]) for item in protocol.items()) / 4)


def test_answer_without_a_box_has_no_overlap(tmp_path):
    protocol = pin(tmp_path, "coco")
    result = protocol.summarise(rows(protocol, lambda item, ask: truth(item, ask) if item.id == "1-0" else "no"))
    assert result["mean_iou"] == pytest.approx(1 / 4) and result["no_box"] == pytest.approx(3 / 4)


def test_unknown_data_and_a_setting_without_effect_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="coco, lvis, voc"):
        PROTOCOLS.get("pin")(folder=tmp_path, data="ade")
    with pytest.raises(ConfigError, match="would do nothing"):
        pin(tmp_path / "b", "voc", annotations="x.json")
