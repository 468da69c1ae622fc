"""AP against pycocotools, LVIS's rules by what each does to a number, the resampled AP against repeated pictures."""

import contextlib
import io
from dataclasses import replace

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from lynx_moe.evaluation.metrics.coco import coco_average_precision
from lynx_moe.evaluation.metrics.detected import Detected
from lynx_moe.evaluation.metrics.resampled_ap import average_precision_interval, match_all, weighted_ap

CATEGORIES = {k: {"name": f"c{k}", "frequency": letter} for k, letter in ((1, "r"), (4, "c"), (9, "f"))}


def picture(rng, crowds=0.1, scores=8):
    """True boxes, boxes near them, and boxes anywhere; few different scores, so that many are equal."""
    n = rng.integers(0, 6)
    low = rng.integers(0, 120, (n, 2))
    true = np.concatenate([low, low + rng.integers(6, 120, (n, 2))], axis=1).astype(float)
    near = true + rng.integers(-5, 6, true.shape)
    low = rng.integers(0, 90, (3, 2))
    found = np.concatenate([near, near[:1], np.concatenate([low, low + 30], axis=1)]).astype(float)
    found[:, 2:] = np.maximum(found[:, 2:], found[:, :2] + 1)
    categories = rng.choice(list(CATEGORIES), n)
    told = np.concatenate(
        [np.where(rng.random(n) < 0.8, categories, 1), categories[:1], rng.choice(list(CATEGORIES), 3)]
    )
    return Detected(
        size=(300, 300), true_boxes=true.tolist(), true_categories=categories.tolist(),
        crowds=(rng.random(n) < crowds).tolist(), areas=np.prod(true[:, 2:] - true[:, :2], axis=1).tolist(),
        found_boxes=found.tolist(), found_categories=told.tolist(),
        confidences=(rng.integers(0, scores, len(found)) / scores).tolist(),
    )  # fmt: skip


def pictures(seed, n=30, **more):
    rng = np.random.default_rng(seed)
    return [picture(rng, **more) for _ in range(n)]


def xywh(box):
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]]


def official(some, limit=100):
    """pycocotools' twelve numbers, from its own structures built here."""
    truth, found = COCO(), []
    truth.dataset = {
        "images": [{"id": k, "width": 300, "height": 300} for k in range(len(some))],
        "categories": [{"id": key, "name": row["name"]} for key, row in CATEGORIES.items()],
        "annotations": [],
    }
    for k, one in enumerate(some):
        for box, category, crowd, area in zip(one.true_boxes, one.true_categories, one.crowds, one.areas, strict=True):
            row = {"image_id": k, "category_id": category, "bbox": xywh(box), "iscrowd": int(crowd), "area": area}
            truth.dataset["annotations"].append({"id": len(truth.dataset["annotations"]) + 1, **row})
        for box, category, score in zip(one.found_boxes, one.found_categories, one.confidences, strict=True):
            found.append({"image_id": k, "category_id": category, "bbox": xywh(box), "score": score})
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        run = COCOeval(truth, truth.loadRes(found), "bbox")
        run.params.maxDets = [1, 10, limit]
        run.evaluate()
        run.accumulate()
        precision, recall = run.eval["precision"][..., -1], run.eval["recall"][..., -1]

    def mean(values):
        return values[values > -1].mean() if (values > -1).any() else None

    areas = [mean(precision[..., k]) for k in (1, 2, 3)]
    whole = precision[..., 0]
    return [mean(whole), mean(whole[0]), mean(whole[5]), *areas, mean(recall[..., 0])]


KEYS = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "recall")


@pytest.mark.parametrize("seed", range(4))
def test_ap_is_that_of_pycocotools(seed):
    some = pictures(seed)
    mine = coco_average_precision(some, CATEGORIES)
    assert [mine[key] for key in KEYS] == pytest.approx(official(some)) and 0.05 < mine["ap"] < 0.9
    assert np.mean(list(mine["by_category"].values())) == pytest.approx(mine["ap"])


@pytest.mark.parametrize("lvis", [False, True])
def test_ap_is_the_same_however_many_categories_are_evaluated_at_once(lvis, monkeypatch):
    some = federated(2) if lvis else pictures(2)
    whole = coco_average_precision(some, CATEGORIES, federated=lvis)
    monkeypatch.setattr("lynx_moe.evaluation.metrics.coco.MOST_PAIRS", 1)
    assert coco_average_precision(some, CATEGORIES, federated=lvis) == whole


def test_confidences_decide_who_is_first():
    some = pictures(5, scores=1000)
    turned = [replace(one, confidences=[1 - c for c in one.confidences]) for one in some]
    first, second = (coco_average_precision(each, CATEGORIES)["ap"] for each in (some, turned))
    assert first != second and second == pytest.approx(official(turned)[0])


def test_no_truth_and_no_answers_have_no_ap():
    nothing = [Detected(size=(9, 9))] * 2
    assert coco_average_precision(nothing, CATEGORIES)["ap"] is None
    assert weighted_ap(match_all(nothing, False), np.ones(2, int)) is None
    some = [replace(one, found_boxes=(), found_categories=(), confidences=()) for one in pictures(1)]
    assert coco_average_precision(some, CATEGORIES)["ap"] == 0.0


def with_box(one, category, confidence=2.0):
    """The picture with one more box, more confident than all others, that hits nothing."""
    return replace(
        one, found_boxes=[*one.found_boxes, [290.0, 290.0, 299.0, 299.0]],
        found_categories=[*one.found_categories, category], confidences=[*one.confidences, confidence],
    )  # fmt: skip


def federated(seed, **more):
    """Pictures where category 9 is known to be absent if it is not there, and 4 is nowhere fully marked."""
    some = pictures(seed, crowds=0, **more)
    return [
        replace(one, absent=frozenset({9} - set(one.true_categories)), unsure=frozenset({4} & set(one.true_categories)))
        for one in some
    ]


def test_lvis_counts_a_false_box_only_where_the_category_was_checked():
    some = federated(3)
    usual = coco_average_precision(some, CATEGORIES, federated=True)
    place = next(k for k, one in enumerate(some) if {1, 9}.isdisjoint(one.true_categories) and 4 in one.true_categories)

    def more(category):
        return coco_average_precision(
            [with_box(one, category) if k == place else one for k, one in enumerate(some)], CATEGORIES, federated=True
        )["ap"]

    assert more(1) == usual["ap"]  # nobody looked for it in this picture
    assert more(4) == usual["ap"]  # not everything of it is marked
    assert more(9) < usual["ap"]  # known not to be there
    assert {usual[f"ap_{name}"] for name in ("rare", "common", "frequent")} == set(usual["by_category"].values())


def test_lvis_without_gaps_is_cocos_ap_without_the_boxes_that_nobody_can_judge():
    some = [replace(one, unsure=frozenset()) for one in federated(4)]
    judged = []
    for one in some:
        keep = [k for k, c in enumerate(one.found_categories) if c in one.true_categories or c in one.absent]
        judged.append(replace(one, **{
            name: [getattr(one, name)[k] for k in keep] for name in ("found_boxes", "found_categories", "confidences")
        }))  # fmt: skip
    assert coco_average_precision(some, CATEGORIES, federated=True)["ap"] == pytest.approx(official(judged, 300)[0])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("lvis", [False, True])
def test_resampled_ap_with_every_picture_once_is_the_ap(lvis, seed):
    some = federated(seed) if lvis else pictures(seed)
    whole = coco_average_precision(some, CATEGORIES, federated=lvis)["ap"]
    assert weighted_ap(match_all(some, lvis), np.ones(len(some), int)) == pytest.approx(whole, abs=1e-12)


@pytest.mark.parametrize("lvis", [False, True])
def test_picture_drawn_twice_counts_as_two_pictures(lvis):
    some = federated(6, scores=10**6) if lvis else pictures(6, scores=10**6)
    counts = np.random.default_rng(0).multinomial(len(some), np.full(len(some), 1 / len(some)))
    again = [one for one, times in zip(some, counts, strict=True) for _ in range(times)]
    whole = coco_average_precision(again, CATEGORIES, federated=lvis)["ap"]
    assert weighted_ap(match_all(some, lvis), counts) == pytest.approx(whole, abs=1e-12)


def test_interval_of_ap_holds_it_and_is_narrower_with_more_pictures():
    few, many = pictures(8, 20), pictures(8, 200)
    widths = []
    for some in (few, many):
        low, high, draws = average_precision_interval(some, draws=200)
        assert draws == 200 and low < coco_average_precision(some, CATEGORIES)["ap"] < high
        widths.append(high - low)
    assert widths[1] < 0.6 * widths[0]
