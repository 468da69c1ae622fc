"""COCO-spatial and GQA-spatial: `[image, true caption, false caption]`, one thing or two."""

import numpy as np
import pytest

from lynx_moe.errors import ConfigError
from lynx_moe.evaluation.protocols import PROTOCOLS
from lynx_moe.evaluation.protocols.spatial import question_of
from tests.evaluation.protocols.understanding import put_json, put_pictures, random_scores

ONE = [
    ["A photo of a dog on the left", "A photo of a dog on the right"],
    ["A photo of a cat on the top", "A photo of a cat on the bottom"],
]
TWO = [
    ["A photo of a dog to the left of a cat", "A photo of a dog to the right of a cat"],
    ["A photo of a cup above a box", "A photo of a cup below a box"],
]


@pytest.fixture(params=["coco_spatial", "gqa_spatial"])
def spatial(request, tmp_path):
    coco = request.param == "coco_spatial"
    ids = list(range(401, 409))
    for objects, captions in (("one", ONE), ("two", TWO)):
        rows = [[number if coco else str(number), *captions[number % 2]] for number in ids]
        put_json(tmp_path / f"{'coco' if coco else 'vg'}_qa_{objects}_obj.json", rows)
    put_pictures(tmp_path, *(f"val2017/{n:012d}.jpg" if coco else f"vg_images/{n}.jpg" for n in ids))
    return PROTOCOLS.get(request.param), tmp_path


def test_accuracy_is_how_often_the_true_caption_scores_higher(spatial):
    kind, folder = spatial
    protocol = kind(folder=folder)
    found, scores = random_scores(protocol)
    summary = protocol.summarise(found)
    right = {key: true > false for key, (true, false) in scores.items()}
    assert summary["n"] == 16 and summary["accuracy"] == pytest.approx(np.mean(list(right.values())))
    assert summary["by_group"]["one"]["accuracy"] == pytest.approx(
        np.mean([v for k, v in right.items() if k[:3] == "one"])
    )
    assert summary["by_place"]["left"]["n"] == 8 and summary["by_pair"]["above_below"]["n"] == 4
    assert summary["interval"] == {"accuracy": None}  # two captions share each picture
    low, high = kind(folder=folder, objects="one").summarise(found[:8])["interval"]["accuracy"]
    assert 0 <= low <= high <= 1


def test_one_or_two_objects_are_a_setting(spatial):
    kind, folder = spatial
    assert {item.group for item in kind(folder=folder, objects="two").items()} == {"two"}
    with pytest.raises(ConfigError):
        kind(folder=folder, objects="three")


def test_unusable_rows_are_counted(spatial):
    kind, folder = spatial
    rows = [
        [1, "A photo of a dog on the left"],
        "x",
        [401, "A photo of a dog", "A dog"],
        [999, *ONE[0]],
        [402, *ONE[0]],
    ]
    put_json(folder / f"{kind.prefix}_qa_one_obj.json", rows)
    protocol = kind(folder=folder, objects="one")
    assert [item.id for item in protocol.items()] == ["one/4"]
    assert protocol.faults == {
        "unreadable row": 2,
        "captions that do not differ in one word of place": 1,
        "missing picture": 1,
    }


def test_a_things_own_name_may_hold_a_word_of_place(spatial):
    kind, folder = spatial
    rows = [[402, "A photo of a tank top on the left", "A photo of a tank top on the right"],
            [402, "A photo of a tank top on the top", "A photo of a tank top on the bottom"]]  # fmt: skip
    put_json(folder / f"{kind.prefix}_qa_one_obj.json", rows)
    items = list(kind(folder=folder, objects="one").items())
    assert [item.truth["place"] for item in items] == ["left"]
    assert items[0].asks[0].question == "Is the tank top on the left or on the right?"


@pytest.mark.parametrize(
    ("caption", "place", "number", "question"),
    [
        ("A photo of a dog on the left", "left", 0, "Is the dog on the left or on the right?"),
        ("A photo of a dog on the left", "left", 1, "Is the dog on the right or on the left?"),
        ("A photo of a cup above a box", "above", 0, "Is the cup above a box or below a box?"),
        (
            "A photo of a cup to the behind of a box",
            "behind",
            1,
            "Is the cup to the front of a box or to the behind of a box?",
        ),
    ],
)
def test_questions_name_both_places(caption, place, number, question):
    assert question_of(caption, place, number) == question
