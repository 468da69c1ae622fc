"""Individual, pair and set accuracy, and that chance is what is said."""

import itertools

import numpy as np
import pytest

from lynx_moe.perception.accuracy import CHANCE, accuracies


def test_chance_is_the_mean_over_all_equally_likely_verdicts():
    verdicts = [
        accuracies(np.array([right], float), np.full((1, 4), 0.5)) for right in itertools.product((0, 1), repeat=4)
    ]
    for name, chance in CHANCE.items():
        assert np.mean([each[name] for each in verdicts]) == chance


def test_a_pair_is_left_with_right_and_above_with_below():
    true, other = np.array([[2.0, 2, 2, 0], [0, 2, 2, 2]]), np.ones((2, 4))
    found = accuracies(true, other)
    assert found == {"individual": 0.75, "pair": 0.5, "set": 0.0, "left_right": 0.5, "above_below": 0.5}


def test_ties_and_scores_that_are_none_are_wrong():
    assert accuracies(np.ones((1, 4)), np.ones((1, 4)))["individual"] == 0
    assert accuracies(np.full((1, 4), np.nan), np.ones((1, 4)))["individual"] == 0


def test_who_reads_captions_alone_gets_half_of_the_pictures_and_no_pair():
    liked = np.random.default_rng(0).normal(size=(50, 4))  # of each caption, whatever the picture
    found = accuracies(liked, liked[:, [1, 0, 3, 2]])
    assert found["individual"] == pytest.approx(0.5) and found["pair"] == found["set"] == 0
