"""Calibration against data whose truth is known, closed forms and brute force."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lynx_moe.errors import CheckpointError, ConfigError
from lynx_moe.evaluation import Temperature, brier, calibration_report, expected_calibration_error, reliability


def drawn(temperature, n=20_000, seed=0):
    """Confidences whose logarithm is `temperature` times too far from 0: what is right is drawn at the true chance."""
    draw = np.random.default_rng(seed)
    true = draw.beta(4, 2, n)
    return true**temperature, draw.random(n) < true


samples = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60)


def slow_ece(confidences, right, bins):
    """The definition, bin by bin: (low, high], and 0 in the first."""
    total = 0.0
    for k in range(bins):
        here = [
            (c, r)
            for c, r in zip(confidences, right, strict=True)
            if k / bins < c <= (k + 1) / bins or (k == 0 and c == 0)
        ]
        total += abs(sum(c for c, _ in here) - sum(r for _, r in here))
    return total / len(confidences)


@given(
    pairs=st.lists(st.tuples(st.integers(0, 1000), st.booleans()), min_size=1, max_size=60),
    bins=st.sampled_from([1, 2, 4, 8]),
)
@settings(max_examples=200, deadline=None)
def test_equal_width_error_is_its_definition(pairs, bins):
    confidences, right = [c / 1024 for c, _ in pairs], [r for _, r in pairs]  # exact, also on the edges of bins
    assert expected_calibration_error(confidences, right, bins) == pytest.approx(slow_ece(confidences, right, bins))


@given(pairs=samples, bins=st.integers(1, 70))
@settings(max_examples=200, deadline=None)
def test_bins_hold_every_box_once_and_bins_of_equal_mass_are_equal(pairs, bins):
    confidences, right = zip(*pairs, strict=True)
    for equal_mass in (False, True):
        parts = reliability(confidences, right, bins, equal_mass=equal_mass)
        assert sum(part["n"] for part in parts) == len(pairs)
        assert sum(part["n"] * part["accuracy"] for part in parts) == pytest.approx(sum(right))
        assert sum(part["n"] * part["confidence"] for part in parts) == pytest.approx(sum(confidences))
        assert all(one["high"] < two["low"] for one, two in zip(parts, parts[1:], strict=False))
    if len(set(confidences)) == len(pairs):
        counts = [part["n"] for part in parts]
        assert max(counts) - min(counts) <= 1


def test_error_of_a_known_gap_is_that_gap():
    # 0.9 said, six in ten right; 0.3 said, five in ten right.
    confidences = [0.9] * 100 + [0.3] * 100
    right = [True] * 60 + [False] * 40 + [True] * 50 + [False] * 50
    for equal_mass in (False, True):
        assert expected_calibration_error(confidences, right, 10, equal_mass=equal_mass) == pytest.approx(
            (0.3 + 0.2) / 2
        )
    assert brier(confidences, right) == pytest.approx((0.6 * 0.01 + 0.4 * 0.81) / 2 + (0.5 * 0.49 + 0.5 * 0.09) / 2)


def test_honest_confidences_have_almost_no_error_and_low_ones_have():
    assert calibration_report(*drawn(1.0))["ece"] < 0.02
    unsure = calibration_report(*drawn(3.0))
    assert unsure["ece"] > 0.08 and unsure["ece_equal_mass"] > 0.08 and unsure["confidence"] < unsure["accuracy"]
    assert json.loads(json.dumps(unsure)) == unsure


@pytest.mark.parametrize("true", [0.5, 1.0, 2.0, 4.0])
def test_the_temperature_that_was_put_in_is_found_and_mends_what_is_held_out(true):
    fitted = Temperature.fit(*drawn(true))
    assert fitted.value == pytest.approx(true, rel=0.05)
    confidences, right = drawn(true, seed=1)
    mended = [fitted(c) for c in confidences]
    assert expected_calibration_error(mended, right) < 0.02
    assert brier(mended, right) <= brier(confidences, right) + 1e-4


def loss(confidences, right, temperature):
    scaled = confidences ** (1 / temperature)
    return -np.log(np.where(right, scaled, 1 - scaled)).mean()


@pytest.mark.parametrize("seed", range(5))
def test_no_temperature_of_a_fine_grid_is_better(seed):
    draw = np.random.default_rng(seed)
    confidences, right = draw.uniform(0.05, 0.95, 40), draw.random(40) < 0.6
    fitted = Temperature.fit(confidences, right)
    grid = np.geomspace(0.02, 50, 4000)
    assert loss(confidences, right, fitted.value) <= min(loss(confidences, right, t) for t in grid) + 1e-9


@pytest.mark.parametrize(
    ("confidences", "right", "expected"),
    [([0.9, 0.8], [True, True], 50.0), ([0.9, 0.8], [False, False], 0.02)],
)
def test_where_no_temperature_is_best_the_nearer_end_is_taken(confidences, right, expected):
    assert Temperature.fit(confidences, right).value == pytest.approx(expected)


def test_confidences_of_0_and_1_can_be_fitted_and_scaled():
    fitted = Temperature.fit([1.0, 1.0, 1.0, 0.0], [True, True, False, False])
    assert math.isfinite(fitted.value) and all(0 <= fitted(c) <= 1 for c in (0.0, 0.5, 1.0))


@given(value=st.floats(0.02, 50), one=st.floats(0, 1), two=st.floats(0, 1))
def test_scaling_keeps_the_order_and_a_temperature_of_1_changes_nothing(value, one, two):
    temperature = Temperature(value)
    assert (one <= two) <= (temperature(one) <= temperature(two))
    assert Temperature(1.0)(one) == pytest.approx(one, abs=2e-6)


def test_a_temperature_survives_its_file(tmp_path):
    Temperature(1.75).save(tmp_path / "temperature.json")
    assert Temperature.load(tmp_path / "temperature.json") == Temperature(1.75)


@pytest.mark.parametrize(
    "content", [None, "{", "[]", "{}", '{"temperature": -1}', '{"temperature": "2"}', '{"temperature": NaN}']
)
def test_a_file_that_holds_no_temperature_is_refused(tmp_path, content):
    path = tmp_path / "temperature.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(CheckpointError, match="no temperature"):
        Temperature.load(path)


@pytest.mark.parametrize(
    ("confidences", "right"), [([], []), ([0.5], []), ([1.5], [True]), ([float("nan")], [True]), ([0.5], [0.5])]
)
def test_what_is_no_confidence_or_verdict_is_refused(confidences, right):
    for measure in (brier, expected_calibration_error, reliability, Temperature.fit):
        with pytest.raises(ConfigError):
            measure(confidences, right)


def test_no_boxes_have_no_report_and_no_bins_are_refused():
    assert calibration_report([], []) is None
    with pytest.raises(ConfigError, match="bins"):
        reliability([0.5], [True], 0)
