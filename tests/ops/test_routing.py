"""Routing against brute force, one token at a time."""

import pytest
import torch

from lynx_moe.ops.routing import load_balance, router_logits, router_z, sigmoid_top_k, softmax_top_k


@pytest.fixture
def logits_TE():
    return torch.randn(17, 6, generator=torch.Generator().manual_seed(0)) * 3


def test_sigmoid_weights_are_the_sigmoids_of_the_largest_logits(logits_TE):
    weights_TK, experts_TK = sigmoid_top_k(logits_TE, 2)
    for logits, weights, experts in zip(logits_TE, weights_TK, experts_TK, strict=True):
        best = sorted(range(6), key=lambda e: -logits[e].item())[:2]
        assert experts.tolist() == best
        for weight, e in zip(weights, best, strict=True):
            assert weight.item() == pytest.approx(1 / (1 + torch.exp(-logits[e]).item()), rel=1e-5)


def test_softmax_over_the_selected_equals_renormalised_softmax_over_all(logits_TE):
    weights_TK, experts_TK = softmax_top_k(logits_TE, 3)
    all_TE = logits_TE.softmax(-1)
    picked_TK = all_TE.gather(1, experts_TK)
    torch.testing.assert_close(weights_TK, picked_TK / picked_TK.sum(-1, keepdim=True))


def test_saturated_sigmoids_still_select_the_larger_logit():
    _, experts_TK = sigmoid_top_k(torch.tensor([[90.0, 200.0, 100.0]]), 1)
    assert experts_TK.item() == 1


def test_router_scores_are_float32_for_bfloat16_inputs():
    x_TD, router_ED = torch.randn(4, 8).bfloat16(), torch.randn(3, 8).bfloat16()
    logits_TE = router_logits(x_TD, router_ED)
    assert logits_TE.dtype == torch.float32
    torch.testing.assert_close(logits_TE, x_TD.double() @ router_ED.double().T, check_dtype=False, rtol=1e-5, atol=1e-5)


def test_balance_is_one_for_even_routing_and_num_experts_for_one_sided_routing():
    even = torch.eye(4).repeat(5, 1) * 50
    assert load_balance(even, even.topk(1).indices, torch.ones(20)).item() == pytest.approx(1.0, abs=1e-4)
    one_sided = torch.tensor([[50.0, 0, 0, 0]]).repeat(20, 1)
    assert load_balance(one_sided, one_sided.topk(1).indices, torch.ones(20)).item() == pytest.approx(4.0, abs=1e-4)


def test_balance_gradient_moves_probability_away_from_the_overfull_expert():
    logits_TE = torch.tensor([[2.0, 0.0, 0.0]]).repeat(8, 1).requires_grad_()
    load_balance(logits_TE, logits_TE.topk(1).indices, torch.ones(8)).backward()
    assert (logits_TE.grad[:, 0] > 0).all() and (logits_TE.grad[:, 1:] < 0).all()


@pytest.mark.parametrize("loss", [lambda l, e, w: load_balance(l, e, w), lambda l, e, w: router_z(l, w)])
def test_tokens_of_weight_zero_do_not_count(logits_TE, loss):
    experts_TK = logits_TE.topk(2).indices
    weight_T = torch.ones(17)
    weight_T[5:] = 0
    masked = loss(logits_TE, experts_TK, weight_T)
    torch.testing.assert_close(masked, loss(logits_TE[:5], experts_TK[:5], torch.ones(5)))


def test_z_loss_is_the_mean_squared_log_partition(logits_TE):
    expected = sum(torch.log(torch.exp(row.double()).sum()).item() ** 2 for row in logits_TE) / 17
    assert router_z(logits_TE, torch.ones(17)).item() == pytest.approx(expected, rel=1e-5)
