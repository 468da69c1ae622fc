"""The noise schedule in closed form, noising and its way back, and what tells time and place."""

import math

import pytest
import torch

from lynx_moe.ops.diffusion import cosine_alpha_bar, mean_square, predicted_clean, q_sample, sincos, sincos_places


@pytest.mark.parametrize("steps", [10, 1000])
def test_what_is_left_is_the_squared_cosine_but_for_the_last_step(steps):
    def left(time: float) -> float:
        return math.cos((time / steps + 0.008) / 1.008 * math.pi / 2) ** 2

    found = cosine_alpha_bar(steps)
    expected = [left(step + 1) / left(0) for step in range(steps - 1)]
    assert found[:-1].tolist() == pytest.approx(expected, rel=1e-6)
    assert found[-1].item() == pytest.approx(found[-2].item() * 1e-3)  # its beta is 1, cut at 0.999


def test_noised_tokens_have_the_schedules_mean_and_variance():
    torch.manual_seed(0)
    clean, share = torch.full((2, 20_000, 1), 3.0), torch.tensor([0.9, 0.25])
    noisy = q_sample(clean, torch.randn_like(clean), share)
    assert noisy.mean(dim=(1, 2)).tolist() == pytest.approx([3 * math.sqrt(0.9), 1.5], abs=0.03)
    assert noisy.var(dim=(1, 2)).tolist() == pytest.approx([0.1, 0.75], rel=0.05)


def test_the_noise_leads_back_to_what_was_there():
    clean, noise, share = torch.randn(3, 4, 2), torch.randn(3, 4, 2), torch.tensor([0.999, 0.5, 0.01])
    torch.testing.assert_close(
        predicted_clean(q_sample(clean, noise, share), noise, share), clean, rtol=1e-4, atol=1e-4
    )


def test_error_is_the_mean_over_own_tokens_and_what_fills_up_does_not_count():
    found = torch.tensor([[[1.0, 3.0], [9.0, 9.0]], [[1.0, 1.0], [2.0, 0.0]]])
    is_token = torch.tensor([[True, False], [True, True]])
    assert mean_square(found, torch.zeros_like(found), is_token).tolist() == [5.0, 1.5]


def test_times_are_told_by_cosines_then_sines_of_falling_frequency():
    time = torch.tensor([0, 7])
    expected = [math.cos(7.0), math.cos(7e-2), math.sin(7.0), math.sin(7e-2)]
    assert sincos(time, 4)[1].tolist() == pytest.approx(expected, rel=1e-5)
    assert sincos(time, 4)[0].tolist() == [1, 1, 0, 0]


def test_each_cell_of_any_grid_has_a_place_of_its_own_and_rows_share_half_of_it():
    place = torch.cartesian_prod(torch.arange(5), torch.arange(7))
    told = sincos_places(place[:, 0], place[:, 1], 16)
    assert told.shape == (35, 16) and len(told.round(decimals=4).unique(dim=0)) == 35
    assert torch.equal(told[0, :8], told[6, :8]) and torch.equal(told[0, 8:], told[28, 8:])
