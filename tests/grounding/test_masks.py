"""The mask that records give: decoded as pycocotools decodes it, and damaged texts are told."""

import numpy as np
import pytest
from pycocotools import mask as oracle

from lynx_moe.errors import RecordError
from lynx_moe.grounding import Mask


def test_arrays_are_those_of_pycocotools():
    rng = np.random.default_rng(0)
    for k in range(200):
        height, width = rng.integers(1, 40, 2)
        true = rng.random((height, width)) < (0, 0.05, 0.5, 1)[k % 4]
        coco = oracle.encode(np.asfortranarray(true.astype(np.uint8)))
        mask = Mask.of_coco({**coco, "counts": coco["counts"].decode()})
        assert mask.size == (width, height)
        found = mask.array()
        assert found.dtype == bool and np.array_equal(found, true)


def test_runs_of_a_large_picture_are_told_in_long_texts():
    true = np.zeros((3000, 4000), np.uint8)
    true[5:2990, 3990:] = 1
    assert np.array_equal(Mask((4000, 3000), oracle.encode(np.asfortranarray(true))["counts"].decode()).array(), true)


@pytest.mark.parametrize("text", ["", "5", "z", "é", "o", "oooooooooooooooo0", "000000", "1N4"])
def test_a_damaged_mask_is_told_when_somebody_looks(text):
    mask = Mask((2, 2), text)
    with pytest.raises(RecordError, match="2 x 2 picture cannot be decoded"):
        mask.array()


@pytest.mark.parametrize(
    "coco",
    [
        {},
        {"size": [2, 2]},
        {"size": None, "counts": "4"},
        {"size": [2], "counts": "4"},
        {"size": [2, 2], "counts": [4]},
    ],
)
def test_what_is_not_of_the_form_is_told_at_once(coco):
    with pytest.raises(RecordError, match="no mask"):
        Mask.of_coco(coco)


def test_a_mask_of_another_picture_is_told():
    whole = Mask((2, 2), "04")
    assert whole.array().all()
    with pytest.raises(RecordError):
        Mask((3, 2), whole.counts).array()
