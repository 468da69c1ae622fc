import torch

from lynx_moe.ops.attach import attach


class Scale:
    def __init__(self, aux_scale):
        self.aux_scale = aux_scale


def test_attach_returns_the_same_values():
    y = torch.randn(3, requires_grad=True)
    assert torch.equal(attach(y, y.sum() * 5, Scale(1.0)), y)


def test_gradient_equals_adding_the_scaled_loss_to_the_total():
    leaf = torch.randn(4, dtype=torch.float64)
    a, b = leaf.clone().requires_grad_(), leaf.clone().requires_grad_()
    (attach(a * 2, a.square().sum(), Scale(0.25)) * 3).sum().backward()
    ((b * 2 * 3).sum() + 0.25 * b.square().sum()).backward()
    torch.testing.assert_close(a.grad, b.grad)


def test_scale_is_read_when_backward_runs():
    scale = Scale(1.0)
    x = torch.ones(2, requires_grad=True)
    total = attach(x * 0, x.sum(), scale).sum()
    scale.aux_scale = 8.0
    total.backward()
    assert x.grad.tolist() == [8.0, 8.0]
