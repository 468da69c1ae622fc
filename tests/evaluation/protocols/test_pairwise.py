"""SVO-Probes and VALSE: pairwise ranking over micro averages, readers of the true files."""

import pytest

from lynx_moe.errors import ConfigError, RecordError
from lynx_moe.evaluation.protocols import PROTOCOLS
from lynx_moe.evaluation.protocols.pairwise import PIECES
from tests.evaluation.protocols.understanding import ask_all, put_json, put_lines, put_pictures, random_scores


def svo_row(k, part):
    return {
        "svo_index": k, "caption": f"a girl stands {k}", "pos_image": f"{k}.jpg", "neg_image": f"{k}_n.jpg",
        "pos_triplet": "girl,stand,grass", "neg_triplet": "girl,sit,grass",
        **{name: name == f"{part}_neg" for name in ("subj_neg", "verb_neg", "obj_neg")},
    }  # fmt: skip


@pytest.fixture
def svo(tmp_path):
    # Parts of unequal size: a mean of means would be another number.
    parts = ["subj"] * 2 + ["verb"] * 7 + ["obj"] * 3
    put_lines(tmp_path / "annotations/test.jsonl", [svo_row(k, part) for k, part in enumerate(parts)])
    put_pictures(tmp_path, *(f"images/{k}{end}.jpg" for k in range(12) for end in ("", "_n")))
    return PROTOCOLS.get("svo_probes")(folder=tmp_path)


def test_svo_is_how_often_the_true_picture_scores_higher(svo):
    found, scores = random_scores(svo)
    summary = svo.summarise(found)
    right = {key: positive > negative for key, (positive, negative) in scores.items()}
    assert summary["accuracy"] == pytest.approx(sum(right.values()) / 12) and summary["chance"] == {"accuracy": 0.5}
    verbs = [right[str(k)] for k in range(2, 9)]
    assert summary["by_group"]["verb"] == {"n": 7, "accuracy": pytest.approx(sum(verbs) / 7)}
    assert summary["errors"]["score is not a number"] == sum(s != s for pair in scores.values() for s in pair)


def test_svo_asks_one_caption_of_the_true_and_then_the_false_picture(svo):
    first, second = next(svo.items()).asks
    assert (first.image_id, second.image_id) == ("0.jpg", "0_n.jpg") and first.text == second.text == "a girl stands 0"


def test_svo_rows_of_no_part_or_two_count_as_in_the_notebook(tmp_path, svo):
    none, two = {**svo_row(0, "none"), "svo_index": 20}, {**svo_row(0, "subj"), "svo_index": 21, "obj_neg": True}
    words = {**svo_row(0, "subj"), "svo_index": 22, "subj_neg": "False", "verb_neg": "True"}
    lines = [svo_row(0, "subj"), none, two, words, svo_row(0, "verb"), svo_row(99, "verb")]
    put_lines(tmp_path / "annotations/test.jsonl", lines)
    found = {item.id: item.group for item in svo.items()}
    assert found == {"0": "subject", "20": "unknown", "21": "subject", "22": "verb"}
    assert svo.faults == {"duplicate id": 1, "missing picture": 2}


def valse_row(k, votes=3):
    return {
        "image_file": f"{k}.jpg", "caption": f"there are {k} cats", "foil": f"there are {k + 1} cats",
        "linguistic_phenomena": "counting", "dataset": "v7w",
        "mturk": {"caption": votes, "foil": 3 - votes, "other": 0},
    }  # fmt: skip


@pytest.fixture
def valse(tmp_path):
    for number, instrument in enumerate(PIECES):
        put_json(tmp_path / f"{instrument}.json", {f"{instrument}_{k}": valse_row(k) for k in range(number + 1)})
    put_pictures(tmp_path, *(f"images/{k}.jpg" for k in range(len(PIECES))))
    return PROTOCOLS.get("valse")(folder=tmp_path)


def test_valse_is_how_often_the_caption_scores_higher_than_the_foil_over_items(valse):
    found, scores = random_scores(valse)
    summary = valse.summarise(found)
    right = {key: caption > foil for key, (caption, foil) in scores.items()}
    assert summary["n"] == 66 and summary["accuracy"] == pytest.approx(sum(right.values()) / 66)
    counting = [v for key, v in right.items() if key.startswith("counting")]
    assert summary["by_piece"]["counting"] == {
        "n": len(counting),
        "accuracy": pytest.approx(sum(counting) / len(counting)),
    }
    assert set(summary["by_group"]) == set(PIECES)


def test_valse_keeps_what_two_of_three_annotators_found_valid(tmp_path, valse):
    votes = {str(k): valse_row(0, k) for k in range(4)}
    put_json(
        tmp_path / "plurals.json", {**votes, "none": {**valse_row(0), "mturk": {}}, "bad": {**valse_row(0), "foil": 1}}
    )
    one = PROTOCOLS.get("valse")(folder=tmp_path, instrument="plurals")
    assert [item.id for item in one.items()] == ["plurals/2", "plurals/3"]
    assert one.faults == {"not found valid by two annotators": 3, "row without a usable foil": 1}
    right = ask_all(one, lambda ask: 1.0 if ask.text == "there are 0 cats" else 0.0)
    assert one.summarise(right)["accuracy"] == 1


def test_valse_without_a_file_or_with_another_instrument_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="existense") as caught:
        PROTOCOLS.get("valse")(folder=tmp_path, instrument="existense")
    assert "existence" in caught.value.fix
    with pytest.raises(RecordError, match="existence.json"):
        list(PROTOCOLS.get("valse")(folder=tmp_path).items())
    put_json(tmp_path / "existence.json", [1, 2])
    with pytest.raises(RecordError, match="existence.json"):
        list(PROTOCOLS.get("valse")(folder=tmp_path, instrument="existence").items())
