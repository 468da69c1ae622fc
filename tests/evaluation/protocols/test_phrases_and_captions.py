"""Flickr30k Entities: phrases by MDETR's two conventions, captions by GVD's measure."""

import json

import numpy as np
import pytest

from lynx_moe.errors import RecordError
from tests.evaluation.protocols.made import at, dump, made, reply, rows, truth


def test_phrases_with_boxes_are_asked_about_and_no_others(tmp_path):
    items = {item.id: item for item in made("flickr30k_entities", tmp_path).items()}
    assert {key: item.truth["phrase"] for key, item in items.items()} == {
        "36979-0-0": "Three men", "36979-0-1": "a red hat", "36979-1-1": "a group",
    }  # fmt: skip
    assert items["36979-0-1"].truth["types"] == ["clothing", "other"]
    assert items["36979-0-0"].truth["boxes"] == [[10, 10, 30, 50], [50, 10, 90, 50], [20, 60, 40, 80]]
    sentence = made("flickr30k_entities", tmp_path, prompt="In '{sentence}', find {phrase}.")
    question = next(sentence.items()).asks[0].record.question
    assert question == "In 'Three men with a red hat in a park .', find Three men."


def mdetr(box, target, merge):
    """datasets/flickr_eval.py: box_iou and recall@1, with _merge_boxes or without."""
    targets = np.asarray(target)
    if merge:
        targets = np.array([[*targets[:, :2].min(0), *targets[:, 2:].max(0)]])
    best = 0.0
    for x1, y1, x2, y2 in targets:
        wh = max(min(box[2], x2) - max(box[0], x1), 0) * max(min(box[3], y2) - max(box[1], y1), 0)
        best = max(best, wh / ((box[2] - box[0]) * (box[3] - box[1]) + (x2 - x1) * (y2 - y1) - wh))
    return best >= 0.5


def test_recall_is_mdetrs_in_both_conventions(tmp_path):
    protocol = made("flickr30k_entities", tmp_path)
    rng = np.random.default_rng(4)
    seen = set()
    for k in range(60):
        low, sides = rng.integers(0, 30, 2) + 20 * (k % 2), rng.integers(25, 70, 2) - 10 * (k % 2)
        box = [*low.tolist(), *np.minimum(low + sides, 100).tolist()]
        result = protocol.summarise(rows(protocol, lambda *_, box=box: at(box)))
        items = list(protocol.items())
        for key, merge in (("recall_any", False), ("recall_merged", True)):
            theirs = np.mean([mdetr(box, item.truth["boxes"], merge) for item in items])
            assert result[key] == pytest.approx(theirs)
            seen.add((key, round(result[key], 2)))
    assert seen == {(key, share) for key in ("recall_any", "recall_merged") for share in (0.0, 0.67)}


def test_phrase_of_two_types_counts_in_both(tmp_path):
    protocol = made("flickr30k_entities", tmp_path)
    result = protocol.summarise(rows(protocol, lambda i, a: truth(i, a) if "other" in i.truth["types"] else "no"))
    assert {k: (v["n"], v["recall_any"]) for k, v in result["by_group"].items()} == {
        "clothing": (1, 1.0), "other": (1, 1.0), "people": (2, 0.0),
    }  # fmt: skip


def test_flickr_faults_are_counted(tmp_path):
    protocol = made("flickr30k_entities", tmp_path)
    dump(tmp_path / "test.txt", "36979\n36979\n../secret\n123\n")
    assert len(list(protocol.items())) == 3
    assert dict(protocol.faults) == {
        "duplicate id": 1, "path leaves the folder": 1, "unreadable annotation or sentence file": 1,
    }  # fmt: skip


def test_caption_boxes_get_their_class_from_label_or_words(tmp_path):
    protocol = made("grounded_caption", tmp_path)
    item = next(protocol.items())
    told = f"Two men {at((10, 10, 40, 60))} and their dogs {at((60, 50, 90, 90))} near a castle {at((0, 0, 9, 9))}"
    row = protocol.judge(item, [reply(told)])
    assert row.labels == ["man", "dog", ""] and row.numbers == {"unnamed": 1.0}


def test_loc_counts_only_what_was_rightly_said(tmp_path):
    protocol = made("grounded_caption", tmp_path)
    some = rows(protocol, lambda item, ask: f"a dog {at((60, 50, 90, 90))}" if item.id == "36979" else "nothing")
    result = protocol.summarise(some)
    # Classes of the split: man, dog, hat. Said: dog alone, in its place.
    assert result["precision_all"] == pytest.approx(1 / 3) == result["recall_all"] == result["f1_loc"]
    wrong = protocol.summarise(rows(protocol, lambda item, ask: f"a dog {at((0, 0, 9, 9))}"))
    assert wrong["f1_all"] == 0.0 == wrong["f1_loc"]


def test_class_of_another_split_is_known_and_held_against_the_caption(tmp_path):
    protocol = made("grounded_caption", tmp_path)
    good = protocol.summarise(rows(protocol))
    bad = protocol.summarise(rows(protocol, lambda item, ask: f"{truth(item, ask)}, a man {at((0, 0, 9, 9))}"))
    assert good["f1_all"] == 1.0 > bad["f1_all"] and bad["recall_all"] == 1.0


def test_caption_faults_are_counted_and_a_split_without_pictures_refused(tmp_path):
    protocol = made("grounded_caption", tmp_path)
    file = tmp_path / "flickr30k_cleaned_class.json"
    content = json.loads(file.read_text())
    content["annotations"][1]["captions"][0]["process_idx"] = []
    content["annotations"].append(content["annotations"][0])
    dump(file, content)
    assert [item.id for item in protocol.items()] == ["36979"]
    assert dict(protocol.faults) == {"caption without words, or of unequal lists": 1, "duplicate id": 1}
    with pytest.raises(RecordError, match="no split 'train'"):
        list(made("grounded_caption", tmp_path, split="train").items())
