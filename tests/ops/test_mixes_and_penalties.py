"""Laws that every mix and every penalty obeys, over the registries."""

import math

import pytest
import torch

from lynx_moe.errors import ConfigError
from lynx_moe.ops.mixes import MIXES
from lynx_moe.ops.penalties import PENALTIES


def gate_for(name, value):
    return {"weights": None, "block": torch.full((1, 1), value), "token": torch.full((3, 1), value)}[
        MIXES.get(name).gate
    ]


@pytest.mark.parametrize("name", ["additive", "token"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_silent_experts_leave_the_frozen_output_exactly(name, dtype):
    f_TD = torch.randn(3, 8).to(dtype)
    assert torch.equal(MIXES.get(name).combine(f_TD, torch.zeros_like(f_TD), gate_for(name, 0.5)), f_TD)


@pytest.mark.parametrize("name", MIXES.names())
def test_a_mix_keeps_the_frozen_dtype_and_shape(name):
    f_TD, n_TD = torch.randn(3, 8).bfloat16(), torch.randn(3, 8).bfloat16()
    y_TD = MIXES.get(name).combine(f_TD, n_TD, gate_for(name, 0.25))
    assert y_TD.dtype == f_TD.dtype and y_TD.shape == f_TD.shape


def test_convex_of_equal_outputs_is_that_output():
    f_TD = torch.randn(3, 8)
    torch.testing.assert_close(MIXES.get("convex").combine(f_TD, f_TD, torch.full((1, 1), 0.3)), f_TD)


def test_convex_openness_falls_when_alpha_rises():
    openness = MIXES.get("convex").openness
    assert openness(None, torch.tensor([[0.9]])) < openness(None, torch.tensor([[0.1]]))


@pytest.mark.parametrize("name", PENALTIES.names())
def test_no_counting_token_costs_nothing_and_has_a_finite_gradient(name):
    open_TG = torch.rand(4, 2).requires_grad_()
    cost = PENALTIES.get(name)(open_TG, torch.zeros(4))
    cost.backward()
    assert cost.item() == 0 and torch.equal(open_TG.grad, torch.zeros(4, 2))


@pytest.mark.parametrize("name", PENALTIES.names())
def test_tokens_of_weight_zero_do_not_count(name):
    open_TG = torch.rand(6, 2, generator=torch.Generator().manual_seed(0))
    weight_T = torch.tensor([1.0, 1, 1, 0, 0, 0])
    penalty = PENALTIES.get(name)
    torch.testing.assert_close(penalty(open_TG, weight_T), penalty(open_TG[:3], torch.ones(3)))


@pytest.mark.parametrize("name", PENALTIES.names())
@pytest.mark.parametrize("value", [0.0, 1.0, 1e-8])
def test_gradients_are_finite_at_the_ends(name, value):
    open_TG = torch.full((3, 2), value).requires_grad_()
    PENALTIES.get(name)(open_TG, torch.ones(3)).backward()
    assert open_TG.grad.isfinite().all()


def test_l1_is_the_mean_summed_gate():
    assert PENALTIES.get("l1")(torch.tensor([[0.2, 0.4], [0.0, 1.0]]), torch.ones(2)).item() == pytest.approx(0.8)


def test_entropy_is_largest_at_one_half_and_matches_the_formula():
    entropy = PENALTIES.get("entropy")
    costs = {p: entropy(torch.tensor([[p]]), torch.ones(1)).item() for p in (0.1, 0.5, 0.9)}
    assert costs[0.5] > costs[0.1] == pytest.approx(costs[0.9], rel=1e-5)
    assert costs[0.1] == pytest.approx(-(0.1 * math.log(0.1) + 0.9 * math.log(0.9)), rel=1e-5)


def test_hoyer_prefers_few_open_gates_and_ignores_their_size():
    hoyer = PENALTIES.get("hoyer")
    spread, peaked = torch.full((1, 8), 0.5), torch.tensor([[0.9] + [0.01] * 7])
    assert hoyer(peaked, torch.ones(1)) < hoyer(spread, torch.ones(1))
    torch.testing.assert_close(hoyer(0.1 * peaked, torch.ones(1)), hoyer(peaked, torch.ones(1)))


def test_an_unknown_penalty_is_refused_with_the_nearest_name():
    with pytest.raises(ConfigError, match="did you mean 'entropy'"):
        PENALTIES.get("entrpy")
