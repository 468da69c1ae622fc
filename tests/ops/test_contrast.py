"""InfoNCE against its closed form; hard negatives against the distribution they are drawn from."""

import pytest
import torch

from lynx_moe.ops.contrast import hard_negatives, info_nce


def logits(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, count, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def test_info_nce_is_minus_the_log_share_of_the_right_one_both_ways():
    x = logits(5)
    shares = x.exp() / x.exp().sum(1, keepdim=True), x.exp() / x.exp().sum(0, keepdim=True)
    expected = -(shares[0].diagonal().log() + shares[1].diagonal().log()) / 2
    torch.testing.assert_close(info_nce(x), expected)
    torch.testing.assert_close(info_nce(x.T), expected)


def test_gradient_of_info_nce_is_share_minus_right():
    x = logits(4).requires_grad_()
    info_nce(x).sum().backward()
    right = torch.eye(4, dtype=torch.double)
    torch.testing.assert_close(x.grad, (x.softmax(1) - right + x.softmax(0) - right).detach() / 2)


def test_what_is_barred_takes_no_part():
    x = logits(4)
    barred = torch.zeros(4, 4, dtype=torch.bool)
    barred[0, 1] = barred[1, 0] = True
    barred.fill_diagonal_(True)  # is ignored
    changed = x.clone()
    changed[0, 1] = changed[1, 0] = 50.0
    torch.testing.assert_close(info_nce(x, barred), info_nce(changed, barred))
    assert not torch.allclose(info_nce(x), info_nce(x, barred))


@pytest.mark.parametrize("count", [0, 1])
def test_a_pair_alone_costs_nothing_and_keeps_its_gradient(count):
    x = torch.zeros(count, count, requires_grad=True)
    info_nce(x).sum().backward()
    assert info_nce(x).shape == (count,) and not info_nce(x).any() and not x.grad.any()


def test_hard_negatives_are_drawn_by_the_softmax_over_the_wrong_ones():
    torch.manual_seed(0)
    x = torch.tensor([[9.0, 1.0, 2.0, 3.0]]).expand(4, 4).contiguous()
    barred = torch.zeros(4, 4, dtype=torch.bool)
    barred[0, 3] = True
    drawn = torch.stack([hard_negatives(x, barred)[1] for _ in range(4000)])
    share = torch.stack([(drawn[:, 0] == k).float().mean() for k in range(4)])
    expected = torch.tensor([0.0, *torch.tensor([1.0, 2.0]).softmax(0), 0.0])
    torch.testing.assert_close(share, expected, atol=0.03, rtol=0)
    assert (drawn != torch.arange(4)).all()


def test_rows_without_a_negative_are_left_out():
    barred = torch.tensor([[True, False, True], [False, True, True], [True, True, True]])
    rows, negatives = hard_negatives(torch.zeros(3, 3), barred)
    assert rows.tolist() == [0, 1] and negatives.tolist() == [1, 0]
    assert len(hard_negatives(torch.zeros(1, 1), torch.zeros(1, 1, dtype=torch.bool))[0]) == 0
    assert len(hard_negatives(torch.zeros(0, 0), torch.zeros(0, 0, dtype=torch.bool))[0]) == 0
