"""Run lengths of masks, held against pycocotools: texts, areas, extents, and texts that are none."""

import numpy as np
import pytest
from pycocotools import mask as oracle

from synth.record import run_lengths
from synth.rle import Runs, pack_counts, unpack_counts

SHARES = (0, 0.03, 0.5, 0.97, 1)


def some_masks(count: int = 300):
    rng = np.random.default_rng(0)
    for k in range(count):
        height, width = rng.integers(1, 40, 2)
        mask = rng.random((height, width)) < SHARES[k % len(SHARES)]
        if k % 3 == 0:  # one thing somewhere, perhaps as high as the picture
            mask = np.zeros((height, width), bool)
            y, x = rng.integers(0, height), rng.integers(0, width)
            mask[y : y + rng.integers(1, 40), x : x + rng.integers(1, 20)] = True
        yield mask


def test_texts_areas_and_extents_are_those_of_pycocotools():
    for mask in some_masks():
        true, runs = oracle.encode(np.asfortranarray(mask.astype(np.uint8))), Runs.of(mask)
        assert runs.coco() == {"size": list(true["size"]), "counts": true["counts"].decode()}
        assert runs.area == oracle.area(true) == mask.sum()
        x, y, width, height = oracle.toBbox(true)
        assert (runs.extent or (0, 0, 0, 0)) == (x, y, x + width, y + height)
        assert np.array_equal(oracle.decode(runs.coco()), mask)


def test_pixels_come_back_whole_and_as_the_window_that_holds_them():
    for mask in some_masks():
        read = Runs.read(Runs.of(mask).coco())
        assert np.array_equal(read.pixels(), mask)
        left, top, window = read.window()
        assert window.sum() == mask.sum() and np.array_equal(
            mask[top:, left:][: window.shape[0], : window.shape[1]], window
        )
        assert read.along_rows() == run_lengths(mask)


def test_a_mask_known_in_parts_is_the_mask_known_whole():
    rng = np.random.default_rng(1)
    for mask in some_masks(60):
        height, width = mask.shape
        top, cut = rng.integers(0, height), rng.integers(0, width + 1)
        mask[:top] = False
        parts = [(0, top, mask[top:, :cut]), (cut, top, mask[top:, cut:])]
        assert Runs.of_windows(parts, width, height).coco() == Runs.of(mask).coco()


def test_pixels_may_be_added_to_a_mask():
    rng = np.random.default_rng(2)
    for mask in some_masks(60):
        height, width = mask.shape
        xy = np.stack([rng.integers(0, width, 4), rng.integers(0, height, 4)], axis=1)
        more = mask.copy()
        more[xy[:, 1], xy[:, 0]] = True
        assert Runs.of(mask).with_pixels(xy).coco() == Runs.of(more).coco()


def test_the_same_mask_written_with_empty_runs_is_the_same_mask():
    assert Runs.of_counts([1, 2, 0, 1, 2, 0], 3, 2).coco() == Runs.of_counts([1, 3, 2], 3, 2).coco()


def test_lengths_of_every_size_come_back_from_their_text():
    counts = [0, 1, 15, 16, 31, 32, 2**20, 5, 2**33, 0, 7]
    assert unpack_counts(pack_counts(np.array(counts))) == counts
    with pytest.raises(ValueError, match="longer than any picture"):
        pack_counts(np.array([2**40]))


@pytest.mark.parametrize(
    "coco",
    [
        {"size": [2, 2], "counts": text}
        for text in ("", "5", "z", "é", "0\x00", "o", "oooooooooooooooo0", "000000", "[1, 3]")
    ]
    + [
        {"size": [2, 2], "counts": [1, -1, 4]}, {"size": [2, 2], "counts": [2**62, 2**62, 2**62, 2**62, 4]},
        {"size": [2, 2], "counts": [[4]]}, {"size": [2, 2], "counts": None}, {"size": [2, 2]}, {"counts": "4"},
        {"size": [2], "counts": "4"}, {"size": [None, 2], "counts": "4"}, {"size": "22", "counts": ["x"]}, {},
    ],
)  # fmt: skip
def test_what_is_no_mask_of_the_picture_is_refused(coco):
    with pytest.raises(ValueError):
        Runs.read(coco)
    assert Runs.read({"size": [2, 2], "counts": "4"}).area == 0
