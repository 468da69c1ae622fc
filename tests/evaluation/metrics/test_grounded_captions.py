"""F1_all and F1_loc against GVD's own loops, written anew from eval_grd_flickr30k_entities.py."""

from collections import defaultdict

import numpy as np
import pytest

from lynx_moe.evaluation.metrics.grounded_captions import TrueCaption, tally

CLASSES = ["man", "dog", "ball", "hat", "tree"]


def hit(a, b):
    iw, ih = min(a[2], b[2]) - max(a[0], b[0]) + 1, min(a[3], b[3]) - max(a[1], b[1]) + 1
    if iw <= 0 or ih <= 0:
        return 0
    union = (a[2] - a[0] + 1) * (a[3] - a[1] + 1) + (b[2] - b[0] + 1) * (b[3] - b[1] + 1) - iw * ih
    return int(iw * ih / union > 0.5)


def official(captions, classes, boxes, mode):
    prec, recall, vocab = defaultdict(list), defaultdict(list), set()
    for anns, clss, bbox in zip(captions, classes, boxes, strict=True):
        for ann in anns:
            vocab.update(ann.classes)
            idx_in_sent = defaultdict(list)
            for cls, idx in zip(ann.classes, ann.places, strict=True):
                idx_in_sent[cls].append(idx)
            exclude = {token for k, token in enumerate(ann.tokens) if k not in ann.places}
            for cls, pred in zip(clss, bbox, strict=True):
                if cls in idx_in_sent:
                    prec[cls].append(hit(pred, ann.boxes[ann.places.index(min(idx_in_sent[cls]))]))
                elif cls not in exclude and mode == "all":
                    prec[cls].append(0)
            for cls, box in zip(ann.classes, ann.boxes, strict=True):
                if cls in clss:
                    recall[cls].append(hit(bbox[clss.index(cls)], box))
                elif mode == "all":
                    recall[cls].append(0)
    p, r = (sum(sum(hits) / len(hits) for hits in part.values()) / len(vocab) for part in (prec, recall))
    return {"precision": p, "recall": r, "f1": 2 * p * r / (p + r)}


def some(seed, n=40):
    rng = np.random.default_rng(seed)

    def box():
        low = rng.integers(0, 20, 2)
        return [*low.tolist(), *(low + rng.integers(5, 25, 2)).tolist()]

    captions, classes, boxes = [], [], []
    for _ in range(n):
        place = {name: box() for name in CLASSES}
        anns = []
        for _ in range(rng.integers(1, 4)):
            named = rng.choice(CLASSES, rng.integers(1, 4)).tolist()
            tokens = ["a", *named, *rng.choice(CLASSES, 1).tolist()]
            order = rng.permutation(len(named))
            anns.append(TrueCaption(
                tokens=tokens, places=[int(k) + 1 for k in order], classes=[named[k] for k in order],
                boxes=[place[named[k]] for k in order],
            ))  # fmt: skip
        captions.append(anns)
        found = rng.choice(CLASSES, rng.integers(0, 5)).tolist()
        classes.append(found)
        boxes.append([place[name] if rng.random() < 0.6 else box() for name in found])
    return captions, classes, boxes


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("mode", ["all", "loc"])
def test_f1_is_gvds(mode, seed):
    made = some(seed)
    assert tally(*made, only_said=mode == "loc").f1() == pytest.approx(official(*made, mode))


def test_picture_drawn_twice_counts_as_two_pictures():
    made = some(9, 6)
    counts = np.array([2, 0, 1, 0, 3, 1])
    again = [[part[k] for k, times in enumerate(counts) for _ in range(times)] for part in made]
    assert tally(*made).f1(counts) == pytest.approx(official(*again, "all"))


def test_word_of_the_caption_in_the_plural_is_not_held_against_the_answer():
    true = TrueCaption(tokens=["two", "men", "and", "dogs"], places=[1], classes=["man"], boxes=[[0, 0, 9, 9]])
    found = tally([[true]], [["man", "dog"]], [[[0, 0, 9, 9], [50, 50, 60, 60]]])
    assert found.f1()["precision"] == 1.0
    assert tally([[true]], [["man", "cat"]], [[[0, 0, 9, 9], [50, 50, 60, 60]]]).told_PC.sum() == 2


def test_no_captions_have_no_f1():
    assert tally([], [], []).f1() == {"precision": None, "recall": None, "f1": None}
