"""GQA's exact accuracy and POPE's accuracy, F1 and share of yes, against the published scripts written anew."""

import random

import pytest

from lynx_moe.errors import ConfigError
from lynx_moe.evaluation.protocols import PROTOCOLS
from tests.evaluation.protocols.understanding import ask_all, put_json, put_lines, put_pictures


def gqa_row(k, answer, structural, balanced=True):
    return {
        "semantic": [], "entailed": [], "equivalent": [], "question": f"What is {k}?", "imageId": f"n{k}",
        "isBalanced": balanced, "groups": {"global": None, "local": "x"}, "answer": answer, "semanticStr": "",
        "annotations": {}, "types": {"detailed": "d", "semantic": "obj" if k % 2 else "rel", "structural": structural},
        "fullAnswer": "",
    }  # fmt: skip


def test_gqa_is_exact_over_balanced_questions(tmp_path):
    rows = {
        "201": gqa_row(1, "yes", "verify"), "202": gqa_row(2, "dining table", "query"),
        "203": gqa_row(3, "left", "choose"),
        "204": gqa_row(4, "no", "verify", balanced=False), "205": gqa_row(5, "cat", "query"), "206": {"question": "?"},
    }  # fmt: skip
    put_json(tmp_path / "testdev_balanced_questions.json", rows)
    put_pictures(tmp_path, *(f"images/n{k}.jpg" for k in range(1, 5)))
    protocol = PROTOCOLS.get("gqa")(folder=tmp_path)
    answers = {"201": "Yes.", "202": "Table", "203": "left"}
    summary = protocol.summarise(ask_all(protocol, lambda record: answers[record.id]))
    assert summary["n"] == 3 and summary["accuracy"] == pytest.approx(2 / 3)
    assert summary["by_answer"] == {"binary": {"n": 2, "accuracy": 1.0}, "open": {"n": 1, "accuracy": 0.0}}
    assert summary["by_group"]["choose"]["n"] == 1 and summary["by_semantic"]["rel"]["accuracy"] == 0
    assert protocol.faults == {"missing picture": 1, "row without a usable answer": 1}
    with pytest.raises(ConfigError):
        PROTOCOLS.get("gqa")(folder=tmp_path, split="testdev")


def published_pope(answers, labels):
    """eval_pope.py: prediction, confusion, precision, recall, F1, accuracy, share of yes."""
    predicted = []
    for text in answers:
        if text.find(".") != -1:
            text = text.split(".")[0]
        words = text.replace(",", "").split(" ")
        predicted.append(0 if "No" in words or "not" in words or "no" in words else 1)
    pairs = list(zip(predicted, (0 if label == "no" else 1 for label in labels), strict=True))
    tp, fp, tn, fn = (sum(pair == wanted for pair in pairs) for wanted in ((1, 1), (1, 0), (0, 0), (0, 1)))
    precision, recall = tp / (tp + fp), tp / (tp + fn)
    return {
        "f1": 2 * precision * recall / (precision + recall), "accuracy": (tp + tn) / len(pairs),
        "precision": precision, "recall": recall, "yes_ratio": sum(predicted) / len(predicted),
    }  # fmt: skip


@pytest.fixture
def pope(tmp_path):
    for kind in ("random", "popular", "adversarial"):
        rows = [
            {
                "question_id": k,
                "image": f"COCO_val2014_{k % 5:012d}.jpg",
                "text": f"Is there a {k}?",
                "label": "yes" if k % 2 else "no",
            }
            for k in range(1, 41)
        ]
        put_lines(tmp_path / f"coco_pope_{kind}.json", rows)
    put_pictures(tmp_path, *(f"val2014/COCO_val2014_{k:012d}.jpg" for k in range(5)))
    return PROTOCOLS.get("pope")(folder=tmp_path)


SAID = ["Yes", "No", "no.", "yes, there is", "There is not.", "Nothing", "A dog. No cat", "None", "It is, no doubt", ""]


def test_pope_is_the_published_scripts_numbers_over_all_and_by_kind(pope):
    draw = random.Random(0)
    said = {item.id: draw.choice(SAID) for item in pope.items()}
    labels = {item.id: item.truth["label"] for item in pope.items()}
    rows = ask_all(pope, lambda record: said[record.id])
    summary = pope.summarise(rows)
    expected = published_pope(list(said.values()), [labels[key] for key in said])
    assert {name: summary[name] for name in expected} == pytest.approx(expected) and summary["n"] == 120
    popular = [key for key in said if key.startswith("popular")]
    expected = published_pope([said[key] for key in popular], [labels[key] for key in popular])
    assert {name: summary["by_group"]["popular"][name] for name in expected} == pytest.approx(expected)
    assert summary["neither"] == sum(text in ("Nothing", "A dog. No cat", "None", "") for text in said.values())


def test_pope_without_a_yes_has_no_precision_and_says_so(pope):
    summary = pope.summarise(ask_all(pope, lambda record: "no"))
    assert (summary["f1"], summary["precision"], summary["accuracy"], summary["yes_ratio"]) == (0, None, 0.5, 0)
    empty = pope.summarise([])
    assert empty["f1"] is None and empty["accuracy"] is None


def test_pope_counts_bad_labels_and_duplicates_and_takes_one_kind(tmp_path, pope):
    row = {"question_id": 1, "image": f"COCO_val2014_{0:012d}.jpg", "text": "Is there?", "label": "yes"}
    put_lines(tmp_path / "coco_pope_random.json", [row, row, {**row, "question_id": 2, "label": "maybe"}, "{"])
    one = PROTOCOLS.get("pope")(folder=tmp_path, kind="random")
    assert [item.id for item in one.items()] == ["random/1"]
    assert one.faults == {"duplicate id": 1, "row without a usable label": 1, "unreadable row": 1}
    assert {item.group for item in pope.items()} == {"random", "popular", "adversarial"}
    with pytest.raises(ConfigError, match="poplar"):
        PROTOCOLS.get("pope")(folder=tmp_path, kind="poplar")
