"""VOC's AP against the development kit's loop, written anew on pixels that are counted from 1."""

import numpy as np
import pytest

from lynx_moe.evaluation.metrics.voc import voc_average_precision, voc_hits

RNG = np.random.default_rng(11)


def official(found, true, eleven):
    """VOCevaldet.m and VOCap.m; boxes are [xmin, ymin, xmax, ymax] of pixels, the last one included."""
    npos = sum(sum(not hard for hard in difficult) for _, difficult in true)
    dets = [
        (score, p, box) for p, (boxes, scores) in enumerate(found) for box, score in zip(boxes, scores, strict=True)
    ]
    dets.sort(key=lambda det: -det[0])
    used = [[False] * len(boxes) for boxes, _ in true]
    tp, fp = np.zeros(len(dets)), np.zeros(len(dets))
    for d, (_, p, bb) in enumerate(dets):
        ovmax, jmax = -np.inf, -1
        for j, bbgt in enumerate(true[p][0]):
            iw = min(bb[2], bbgt[2]) - max(bb[0], bbgt[0]) + 1
            ih = min(bb[3], bbgt[3]) - max(bb[1], bbgt[1]) + 1
            if iw > 0 and ih > 0:
                ua = (
                    (bb[2] - bb[0] + 1) * (bb[3] - bb[1] + 1)
                    + (bbgt[2] - bbgt[0] + 1) * (bbgt[3] - bbgt[1] + 1)
                    - iw * ih
                )
                if iw * ih / ua > ovmax:
                    ovmax, jmax = iw * ih / ua, j
        if ovmax >= 0.5:
            if not true[p][1][jmax]:
                if not used[p][jmax]:
                    tp[d], used[p][jmax] = 1, True
                else:
                    fp[d] = 1
        else:
            fp[d] = 1
    rec, prec = np.cumsum(tp) / npos, np.cumsum(tp) / np.maximum(np.cumsum(tp) + np.cumsum(fp), 1e-9)
    if eleven:
        return sum((prec[rec >= k / 10 - 1e-12].max() if (rec >= k / 10 - 1e-12).any() else 0) / 11 for k in range(11))
    mrec, mpre = np.concatenate([[0], rec, [1]]), np.concatenate([[0], prec, [0]])
    for i in range(len(mpre) - 2, -1, -1):
        mpre[i] = max(mpre[i], mpre[i + 1])
    i = np.flatnonzero(mrec[1:] != mrec[:-1]) + 1
    return np.sum((mrec[i] - mrec[i - 1]) * mpre[i])


def some(num_pictures=25):
    found, true = [], []
    for _ in range(num_pictures):
        n = RNG.integers(0, 5)
        low = RNG.integers(1, 60, (n, 2))
        boxes = np.concatenate([low, low + RNG.integers(3, 30, (n, 2))], axis=1)
        near = boxes + RNG.integers(-4, 5, boxes.shape)
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2])
        near = np.concatenate([near, near[:1], boxes[:1]])
        true.append((boxes.tolist(), (RNG.random(n) < 0.2).tolist()))
        found.append((near.tolist(), RNG.random(len(near)).tolist()))
    return found, true


def edges(lists):
    """Pixels counted from 1, the last included, as the box around them."""
    return [([[x1 - 1, y1 - 1, x2, y2] for x1, y1, x2, y2 in boxes], more) for boxes, more in lists]


@pytest.mark.parametrize("eleven", [False, True])
@pytest.mark.parametrize("round", range(5))
def test_ap_is_the_development_kits(eleven, round):
    found, true = some()
    mine = voc_average_precision(voc_hits(edges(found), edges(true)), eleven_points=eleven)
    assert mine == pytest.approx(official(found, true, eleven)) and 0.1 < mine < 0.95


def test_picture_drawn_twice_counts_as_two_pictures():
    found, true = some(6)
    counts = np.array([2, 0, 1, 3, 1, 0])
    again = [k for k, times in enumerate(counts) for _ in range(times)]
    drawn = voc_hits(edges([found[k] for k in again]), edges([true[k] for k in again]))
    weighed = voc_average_precision(voc_hits(edges(found), edges(true)), counts_P=counts)
    assert weighed == pytest.approx(voc_average_precision(drawn))


def test_class_without_objects_that_count_has_no_ap():
    assert voc_average_precision(voc_hits([([[0, 0, 5, 5]], [1.0])], [([[0, 0, 5, 5]], [True])])) is None


def test_class_that_nothing_was_found_of_has_an_ap_of_zero():
    hits = voc_hits([([], [])], [([[0, 0, 5, 5]], [False])])
    assert voc_average_precision(hits) == 0.0 == voc_average_precision(hits, eleven_points=True)
