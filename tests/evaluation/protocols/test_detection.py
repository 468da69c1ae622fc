"""Detection on COCO's, LVIS's and VOC's files: what is asked, whose box is whose, and what counts."""

import json

import pytest

from lynx_moe.errors import ConfigError, RecordError
from lynx_moe.evaluation.protocols.category_names import GENERAL_NAMES, CategoryNames, general_names
from tests.evaluation.protocols.made import at, dump, made, reply, rows, truth


def asked(protocol):
    return {item.id: [ask.record.question for ask in item.asks] for item in protocol.items()}


def test_protocol_3_asks_for_every_category_by_name(tmp_path):
    every = [f"Find every {name}." for name in ("car", "cat", "dog", "person")]
    assert asked(made("coco_detection", tmp_path)) == {"1": every, "2": every, "3": every}


def test_present_categories_alone_are_asked_for_when_it_is_said_and_the_result_says_so(tmp_path):
    protocol = made("coco_detection", tmp_path, categories="present")
    assert asked(protocol) == {
        "1": ["Find every cat.", "Find every dog."],
        "2": ["Find every car.", "Find every person."],
    }
    assert protocol.faults == {"picture with nothing to ask for": 1}
    assert protocol.summarise(rows(protocol))["categories"] == "present"


def test_false_alarm_costs_ap_only_where_all_categories_are_asked_for(tmp_path):
    def cars(item, ask):
        return truth(item, ask) if truth(item, ask) != "none" else at((5, 60, 30, 95))

    scores = {}
    for kind in ("all", "present"):
        protocol = made("coco_detection", tmp_path, categories=kind)
        scores[kind] = protocol.summarise(rows(protocol, cars, confidences=()))["ap"]
    assert scores["present"] == 1.0 > scores["all"]


def test_confidences_rank_the_boxes(tmp_path):
    protocol = made("coco_detection", tmp_path)
    wrong = (70, 70, 95, 95)

    def ap(confidences):
        found = []
        for item in protocol.items():
            replies = []
            for ask in item.asks:
                right = truth(item, ask)
                replies.append(reply(f"{at(wrong)} {right}", confidences) if right != "none" else reply("none"))
            found.append(protocol.judge(item, replies))
        return protocol.summarise(found)["ap"]

    assert ap((0.1, 0.9)) == 1.0 and ap((0.9, 0.1)) == pytest.approx(0.5, abs=0.01)
    assert ap(()) == ap((0.5, 0.5)) == ap((0.1, float("nan"))) == ap((0.1,))  # in the order of writing


def test_protocol_1_asks_once_and_reads_labels_from_the_words(tmp_path):
    protocol = made("coco_detection", tmp_path, protocol=1)
    assert asked(protocol) == dict.fromkeys("123", ["List all objects in the picture and where they are."])
    item = next(protocol.items())
    row = protocol.judge(item, [reply(f"Two cats {at((10, 10, 50, 40))}, a puppy {at((60, 20, 90, 80))} and a small "
                                      f"dog: {at((60, 20, 90, 80))}")])  # fmt: skip
    assert row.labels == ["cat", "", "dog"]
    result = protocol.summarise([row])
    assert result["ap"] == 1.0 and result["unnamed"] == pytest.approx(1 / 3) and result["asked"] == "everything"
    assert result["ap_any_category"] == 1.0  # the puppy comes after the dog, when nothing is left to lose


def test_box_of_no_category_counts_against_the_ap_of_any(tmp_path):
    protocol = made("coco_detection", tmp_path, protocol=1)
    item = next(protocol.items())
    row = protocol.judge(item, [reply(f"a unicorn {at((1, 70, 20, 99))} a cat {at((10, 10, 50, 40))}")])
    result = protocol.summarise([row])
    assert result["ap_any_category"] == pytest.approx(0.25, abs=0.01) and result["by_category"] == {
        "cat": 1.0,
        "dog": 0.0,
    }


def test_protocol_2_asks_by_general_names_and_merges_their_things(tmp_path):
    protocol = made("coco_detection", tmp_path, protocol=2)
    assert asked(protocol)["1"] == ["Find every animal.", "Find every human being.", "Find every vehicle."]
    item = next(protocol.items())
    assert item.truth["labels"] == ["animal", "animal"]
    assert set(protocol.summarise(rows(protocol))["by_category"]) == {"animal", "human being", "vehicle"}


def test_protocol_2_takes_the_users_own_names(tmp_path):
    table = tmp_path / "names.txt"
    dump(table, "person: somebody\ncat: pet\ndog: pet\ncar: machine\n")
    protocol = made("coco_detection", tmp_path, protocol=2, general_names=table)
    assert asked(protocol)["1"] == ["Find every machine.", "Find every pet.", "Find every somebody."]
    dump(table, "person: somebody\ncat: pet\n")
    with pytest.raises(ConfigError, match="no more general name for 'dog', 'car'"):
        list(protocol.items())
    dump(table, "person\n")
    with pytest.raises(ConfigError, match="has the line 'person'"):
        list(protocol.items())


def test_all_of_coco_and_voc_have_a_more_general_name():
    from lynx_moe.evaluation.protocols.voc_tables import NAMES

    # fmt: off
    coco = (
        "person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,stop sign,"
        "parking meter,bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,backpack,umbrella,"
        "handbag,tie,suitcase,frisbee,skis,snowboard,sports ball,kite,baseball bat,baseball glove,skateboard,"
        "surfboard,tennis racket,bottle,wine glass,cup,fork,knife,spoon,bowl,banana,apple,sandwich,orange,"
        "broccoli,carrot,hot dog,pizza,donut,cake,chair,couch,potted plant,bed,dining table,toilet,tv,laptop,"
        "mouse,remote,keyboard,cell phone,microwave,oven,toaster,sink,refrigerator,book,clock,vase,scissors,"
        "teddy bear,hair drier,toothbrush"
    ).split(",")
    # fmt: on
    assert len(coco) == 80 and len(NAMES) == 20
    general = general_names([*coco, *NAMES], None)
    assert len(set(general.values())) < 20 and not {n for n in coco if general[n] == n}
    assert set(GENERAL_NAMES) == set(coco) | {"motorbike", "sofa", "tv monitor"}


def test_all_categories_in_one_question(tmp_path):
    protocol = made("coco_detection", tmp_path, together=True)
    assert asked(protocol)["1"] == ["Find all objects of these kinds: car, cat, dog, person."]
    assert protocol.summarise(rows(protocol))["ap"] == 1.0


@pytest.mark.parametrize(("setting", "value"), [("protocol", 4), ("categories", "some"), ("prompt", "Find it.")])
def test_setting_that_nothing_can_honour_is_refused(tmp_path, setting, value):
    with pytest.raises(ConfigError):
        made("coco_detection", tmp_path, **{setting: value})


def test_crowds_count_neither_for_nor_against(tmp_path):
    protocol = made("coco_detection", tmp_path)
    file = tmp_path / "annotations" / "instances_val2017.json"
    content = json.loads(file.read_text())
    for row in content["annotations"]:
        row["iscrowd"] = int(row["id"] == 12)
    dump(file, content)
    silent = protocol.summarise(rows(protocol, lambda i, a: "none" if a.record.phrase == "dog" else truth(i, a)))
    assert silent["ap"] == 1.0 == protocol.summarise(rows(protocol))["ap"] and "dog" not in silent["by_category"]


def test_interval_of_ap_is_in_the_result(tmp_path):
    protocol = made("coco_detection", tmp_path, interval_seconds=60.0)
    result = protocol.summarise(rows(protocol, lambda i, a: truth(i, a) if i.id == "1" else "none"))
    assert result["ap"] == pytest.approx(0.5)
    assert result["interval"][0] <= 0.5 <= result["interval"][1] and result["interval_draws"] > 100


def test_lvis_asks_only_about_what_the_picture_was_checked_for(tmp_path):
    protocol = made("lvis_detection", tmp_path)
    assert asked(protocol) == {
        "1": ["Find every car.", "Find every cat.", "Find every dog."],
        "2": ["Find every car.", "Find every person."],
    }
    truth_of = {item.id: item.truth for item in protocol.items()}
    assert truth_of["1"]["absent"] == ["car"] and truth_of["1"]["unsure"] == ["cat"]
    result = protocol.summarise(rows(protocol))
    assert {result[key] for key in ("ap", "ap_rare", "ap_common", "ap_frequent")} == {1.0}


def test_lvis_keeps_the_300_most_confident_boxes_of_a_picture(tmp_path):
    protocol = made("lvis_detection", tmp_path)
    found = rows(protocol)
    for row in found:
        row.confidences = [0.5] * len(row.boxes)
    assert protocol.summarise(found)["ap"] == 1.0
    # 299 surer boxes of the absent car leave room for one true box.
    crowded = found[0]
    crowded.boxes += [[80.0, 80.0, 99.0, 99.0]] * 299
    crowded.confidences += [0.9] * 299
    crowded.labels += ["car"] * 299
    by_category = protocol.summarise(found)["by_category"]
    assert by_category["cat"] == 1.0 and by_category["dog"] == 0.0


def test_lvis_names_are_spoken_plainly_and_synonyms_are_known(tmp_path):
    protocol = made("lvis_detection", tmp_path, protocol=1)
    content = json.loads((tmp_path / "lvis_v1_val.json").read_text())
    content["categories"][0] |= {"name": "baby_buggy_(vehicle)", "synonyms": ["baby_buggy", "pram"]}
    dump(tmp_path / "lvis_v1_val.json", content)
    item = list(protocol.items())[1]
    assert "baby buggy" in item.truth["labels"]
    row = protocol.judge(item, [reply(f"prams {at((0, 0, 50, 50))}, a baby buggy {at((0, 0, 50, 50))}")])
    assert row.labels == ["baby buggy"] * 2


def test_lvis_without_general_names_has_no_protocol_2(tmp_path):
    with pytest.raises(ConfigError, match="more general names"):
        made("lvis_detection", tmp_path, protocol=2)


def test_voc_boxes_are_from_edge_to_edge_and_names_spoken(tmp_path):
    protocol = made("voc_detection", tmp_path, categories="present")
    items = {item.id: item for item in protocol.items()}
    assert items["000001"].truth["boxes"] == [[10, 10, 50, 40], [60, 20, 90, 80]]
    assert [ask.record.question for ask in items["000001"].asks] == ["Find every cat.", "Find every dining table."]
    assert items["000002"].truth["uncounted"] == [False, True]


def test_voc_difficult_objects_count_neither_for_nor_against(tmp_path):
    protocol = made("voc_detection", tmp_path)
    easy = protocol.summarise(rows(protocol, lambda i, a: truth(i, a).split("] [")[0].rstrip("]") + "]"))
    assert easy["ap50"] == 1.0 == easy["ap50_11_points"]


def test_voc_faults_are_counted(tmp_path):
    protocol = made("voc_detection", tmp_path)
    dump(tmp_path / "ImageSets" / "Main" / "test.txt", "000001\n000001\n../x\n000009\n000002\n")
    dump(tmp_path / "Annotations" / "000002.xml", "<!DOCTYPE a [<!ENTITY b 'c'>]><annotation/>")
    assert [item.id for item in protocol.items()] == ["000001"]
    assert dict(protocol.faults) == {
        "duplicate id": 1, "path leaves the folder": 1, "missing or unreadable annotation file": 2,
    }  # fmt: skip


def test_annotations_that_are_no_json_are_refused(tmp_path):
    protocol = made("coco_detection", tmp_path)
    dump(tmp_path / "annotations" / "instances_val2017.json", "{")
    with pytest.raises(RecordError, match="not a COCO file"):
        list(protocol.items())


def test_longest_name_that_ends_last_is_meant():
    names = CategoryNames({1: ["dog"], 2: ["hot dog"], 3: ["wine glass"], 4: ["bus"], 5: ["person"], 6: ["tv"]})
    said = {
        "two hot dogs": 2, "the dog": 1, "wine glasses": 3, "a person's dogs": 1, "Buses": 4, "some people": 5,
        "a man": 5, "television": 6, "glass": None, "": None, "hotdog": None,
    }  # fmt: skip
    assert {text: names.find(text) for text in said} == said


def test_result_says_how_many_boxes_have_no_confidence_of_their_own(tmp_path):
    protocol = made("coco_detection", tmp_path, together=True)
    first, second, _ = protocol.items()
    replies = [reply(truth(item, item.asks[0])) for item in (first, second)]
    sure = reply(replies[0].text, (0.5, 0.25))
    result = protocol.summarise([protocol.judge(first, [sure]), protocol.judge(second, [replies[1]])])
    assert result["unranked"] == 0.5


def test_lvis_by_general_names_has_no_frequencies_and_knows_less(tmp_path):
    dump(tmp_path / "names.txt", "person: thing\ncat: pet\ndog: pet\ncar: thing\n")
    protocol = made("lvis_detection", tmp_path, protocol=2, general_names=tmp_path / "names.txt")
    result = protocol.summarise(rows(protocol))
    assert result["ap"] == 1.0 and "ap_rare" not in result
    # Of things, nobody looked for people in the first picture; of pets, not every cat is marked there.
    assert asked(protocol) == {"1": ["Find every pet."], "2": ["Find every thing."]}
    first, second = protocol.items()
    assert (first.truth["absent"], first.truth["unsure"]) == ([], ["pet"])
    assert (second.truth["absent"], second.truth["unsure"]) == ([], [])


def test_lvis_general_name_is_absent_where_all_that_it_stands_for_is(tmp_path):
    dump(tmp_path / "names.txt", "person: somebody\ncat: pet\ndog: pet\ncar: machine\n")
    protocol = made("lvis_detection", tmp_path, protocol=2, general_names=tmp_path / "names.txt")
    assert asked(protocol)["1"] == ["Find every machine.", "Find every pet."]
    assert next(protocol.items()).truth["absent"] == ["machine"]
