import math

import pytest
import torch

from lynx_moe.objectives.retention import retention_nats


def probabilities(row: list[float]) -> list[float]:
    weights = [math.exp(v) for v in row]
    return [w / sum(weights) for w in weights]


def test_retention_is_the_textbook_divergence_from_base_to_adapted():
    adapted, base = [[0.3, -1.0, 2.0], [0.0, 0.0, 0.0]], [[1.0, 0.0, -1.0], [2.0, 0.0, 1.0]]
    expected = sum(
        p * math.log(p / q)
        for a, b in zip(adapted, base, strict=True)
        for p, q in zip(probabilities(b), probabilities(a), strict=True)
    )
    assert abs(retention_nats(torch.tensor(adapted), torch.tensor(base)).item() - expected) < 1e-6


def test_retention_is_asymmetric_it_charges_for_what_the_base_would_have_said():
    sure, unsure = torch.tensor([[9.0, 0.0]]), torch.tensor([[0.0, 0.0]])
    assert retention_nats(adapted_TV=sure, base_TV=unsure) > 4 * retention_nats(adapted_TV=unsure, base_TV=sure)


def test_no_gradient_reaches_the_base():
    adapted, base = torch.randn(3, 7, requires_grad=True), torch.randn(3, 7, requires_grad=True)
    retention_nats(adapted, base).backward()
    assert base.grad is None and adapted.grad.abs().sum() > 0


def test_gradient_is_the_difference_of_the_two_distributions():
    adapted, base = torch.randn(3, 7, requires_grad=True), torch.randn(3, 7)
    retention_nats(adapted, base).backward()
    torch.testing.assert_close(adapted.grad, adapted.detach().softmax(-1) - base.softmax(-1))


@pytest.mark.parametrize("shift", [-50.0, 50.0])
def test_retention_does_not_see_a_shift_of_all_logits(shift):
    adapted, base = torch.randn(4, 9), torch.randn(4, 9)
    shifted = retention_nats(adapted + shift, base)
    torch.testing.assert_close(shifted, retention_nats(adapted, base), rtol=1e-4, atol=1e-5)


def test_retention_of_no_token_is_zero():
    assert retention_nats(torch.randn(0, 4), torch.randn(0, 4)).item() == 0.0
